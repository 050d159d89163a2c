package aliquot

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot/internal/gpu"
)

const nvidiaProc = "/proc/driver/nvidia"

// nvidiaNodes returns the device nodes of an NVIDIA grant and no other GPU's: the
// control nodes, the node of each GPU by its minor number and, for MIG devices,
// the capability nodes of their GPU instance and compute instance.
func (h host) nvidiaNodes(g gpu.Grant) ([]*drivers.DeviceConfig, error) {
	own, err := h.nvidiaOwnNodes(g)
	if err != nil {
		return nil, err
	}
	paths := append([]string{"/dev/nvidiactl", "/dev/nvidia-uvm"}, own...)
	if h.exists("/dev/nvidia-uvm-tools") {
		paths = append(paths, "/dev/nvidia-uvm-tools")
	}
	nodes, err := h.nodes(paths)
	if err != nil {
		return nil, fmt.Errorf("%w: is the NVIDIA driver loaded? nvidia-modprobe -c 0 -u makes the nodes", err)
	}
	return nodes, nil
}

// nvidiaOwnNodes returns the paths of the nodes that belong to the granted GPUs
// alone.
func (h host) nvidiaOwnNodes(g gpu.Grant) ([]string, error) {
	var paths []string
	for i, id := range g.GPUs {
		if i >= len(g.PCI) || g.PCI[i] == "" {
			return nil, fmt.Errorf("the grant names no PCI address for GPU %s: is the device plugin of the same release as the driver?", id)
		}
		minor, err := h.nvidiaMinor(id, g.PCI[i])
		if err != nil {
			return nil, err
		}
		paths = append(paths, fmt.Sprintf("/dev/nvidia%d", minor))
		if g.Sharing != gpu.SharingMIG {
			continue
		}
		if i >= len(g.MIG) {
			return nil, fmt.Errorf("the grant names no GPU instance for MIG device %s", id)
		}
		caps, err := h.migCaps(minor, g.MIG[i])
		if err != nil {
			return nil, fmt.Errorf("MIG device %s: %w", id, err)
		}
		paths = append(paths, caps...)
	}
	return paths, nil
}

// nvidiaMinor returns the number of a GPU's device node. A task that outlived a reboot
// brings the address that its GPU had before it, where another may be now.
func (h host) nvidiaMinor(id gpu.ID, pci string) (int, error) {
	const folder = nvidiaProc + "/gpus/"
	information := folder + kernelPCI(pci) + "/information"
	if other := h.nvidiaUUID(information); other != "" && other != id && strings.HasPrefix(string(id), "GPU-") {
		now := ""
		files, _ := filepath.Glob(h.path(folder + "*/information"))
		for _, file := range files {
			path := folder + filepath.Base(filepath.Dir(file)) + "/information"
			if h.nvidiaUUID(path) == id {
				now = path
			}
		}
		if now == "" {
			return 0, fmt.Errorf("GPU %s is not on the host any more, and at %s is %s: its task needs a new placement", id, pci, other)
		}
		information = now
	}
	minor, err := h.number(information, "Device Minor")
	if err != nil {
		return 0, fmt.Errorf("GPU %s at %s is not known to the host's NVIDIA driver: %w", id, pci, err)
	}
	return minor, nil
}

// nvidiaUUID reads a GPU's UUID, "" where the driver does not tell it: it shows
// question marks until a program has opened the GPU.
func (h host) nvidiaUUID(information string) gpu.ID {
	uuid, _ := h.field(information, "GPU UUID")
	if !strings.HasPrefix(uuid, "GPU-") || strings.Contains(uuid, "?") {
		return ""
	}
	return gpu.ID(uuid)
}

// migCaps returns the capability nodes of the MIG device "<gi>/<ci>" on the GPU
// of a minor number.
func (h host) migCaps(minor int, mig string) ([]string, error) {
	gi, ci, ok := strings.Cut(mig, "/")
	if !ok || strings.Trim(gi+ci, "0123456789") != "" || gi == "" || ci == "" {
		return nil, fmt.Errorf("%q is no GPU instance and compute instance: want for example \"7/0\"", mig)
	}
	base := fmt.Sprintf("%s/capabilities/gpu%d/mig/gi%s", nvidiaProc, minor, gi)
	var out []string
	for _, access := range []string{base + "/access", base + "/ci" + ci + "/access"} {
		n, err := h.number(access, "DeviceFileMinor")
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", n))
	}
	return out, nil
}

// kernelPCI writes a PCI address as the kernel names its folders: four digits of
// domain, lower case. NVML writes eight digits.
func kernelPCI(pci string) string {
	pci = strings.ToLower(pci)
	if domain, rest, ok := strings.Cut(pci, ":"); ok && len(domain) == 8 {
		return strings.TrimPrefix(domain, "0000") + ":" + rest
	}
	return pci
}
