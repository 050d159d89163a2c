package nvidia

import (
	"fmt"
	"slices"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
)

// linksEvery is the number of rounds after which a GPU's NVLinks are read again. A reading takes dozens
// of calls, and links change only when the fabric manager starts or a link fails.
const linksEvery = 30

// links has the devices at the far ends of one GPU's NVLinks, as sorted PCI addresses.
type links struct {
	gpus, switches []string
	age            int // rounds since they were read
}

// linksOf returns the links of a GPU. Only one goroutine at a time reads a GPU.
func (l *library) linksOf(h nvml.Device, id gpu.ID) links {
	if v, ok := l.linked.Load(id); ok && v.(links).age < linksEvery {
		known := v.(links)
		known.age++
		l.linked.Store(id, known)
		return known
	}
	fresh := readLinks(h)
	l.linked.Store(id, fresh)
	return fresh
}

func readLinks(h nvml.Device) links {
	var out links
	for link := range nvml.MaxLinks {
		active, r := h.LinkActive(link)
		if r != nvml.Success && r != nvml.NotSupported {
			break // the GPU has no link with this number, or links cannot be read
		}
		if !active {
			continue
		}
		kind, r := h.LinkKind(link)
		toSwitch := r == nvml.Success && kind == nvml.LinkToSwitch
		far, r := h.LinkPCI(link)
		switch {
		case toSwitch && r == nvml.Success:
			out.switches = append(out.switches, addressOf(far))
		case toSwitch:
			out.switches = append(out.switches, "switch") // a virtual machine may not see its address
		case r == nvml.Success:
			out.gpus = append(out.gpus, addressOf(far))
		}
	}
	for _, list := range []*[]string{&out.gpus, &out.switches} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
}

func addressOf(p nvml.PCI) string { return fmt.Sprintf("%04x:%02x:%02x.0", p.Domain, p.Bus, p.Device) }
