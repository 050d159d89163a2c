// Package intel is Intel's part of the device plugin: discrete GPUs, whole or as SR-IOV virtual
// functions, from the files of the kernel drivers xe and i915. It needs no library.
package intel

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/intel"
	"aliquot.example/internal/share"
)

// Name of the plugin and its binary.
const Name = "aliquot-device-intel"

// Maker describes Intel's plugin.
func Maker() plugin.Maker {
	return plugin.Maker{
		Name:   Name,
		Vendor: gpu.Intel,
		Modes:  []share.Mode{share.Whole, share.Partition, share.Off},
		New:    newVendor,
	}
}

// vendor implements plugin.Vendor.
type vendor struct {
	root machine.Root
	host plugin.Host

	mu   sync.Mutex
	gpus map[gpu.ID]kernel.GPU
	// unknownSize has the GPUs that were logged because the size of their memory is unknown.
	unknownSize map[gpu.ID]bool

	// measuring guards the values of the last reading of load.
	measuring sync.Mutex
	busy      map[client]kernel.Client
	energy    map[gpu.ID]int64
	read      time.Time
}

func newVendor(cfg plugin.Config, host plugin.Host) (plugin.Vendor, error) {
	v := &vendor{
		root: machine.Root(cfg.Root), host: host, gpus: map[gpu.ID]kernel.GPU{}, unknownSize: map[gpu.ID]bool{},
	}
	return v, cfg.Settings.Err()
}

// Inventory reads the PCI devices. It also lists GPUs without a driver, so that their devices show what
// is wrong.
func (v *vendor) Inventory(context.Context) ([]share.Found, error) {
	list := kernel.GPUs(v.root)
	if len(list) == 0 {
		return nil, fmt.Errorf("%s lists no discrete GPU of Intel: %w", v.root.Path(machine.PCIDevices),
			plugin.ErrAbsent)
	}
	var counted []plugin.Counted
	physical := map[string]kernel.GPU{}
	for _, g := range list {
		if g.Parent == "" {
			counted = append(counted, plugin.Counted{ID: gpu.ID(g.PCI), Number: len(counted)})
			physical[g.PCI] = g
		}
	}
	number := map[string]int{}
	for i, n := range v.host.Numbers.Of(counted) {
		number[string(counted[i].ID)] = n
	}
	known := map[gpu.ID]kernel.GPU{}
	var out []share.Found
	for _, g := range list {
		known[gpu.ID(g.PCI)] = g
		v.logUnknownSize(g)
		if g.Parent != "" {
			out = append(out, v.function(g, physical[g.Parent], number[g.Parent]))
			continue
		}
		out = append(out, share.Found{
			GPU: v.describe(g, g, number[g.PCI]), Split: g.Functions > 0,
			Slicing: share.Slicing{Why: "Intel GPUs are divided into virtual functions, not slices"},
		})
	}
	v.mu.Lock()
	v.gpus = known
	v.mu.Unlock()
	return out, nil
}

// logUnknownSize logs once if the size of a GPU's memory is unknown. Only the group's attributes need the size,
// because a task gets all of the memory.
func (v *vendor) logUnknownSize(g kernel.GPU) {
	if id := gpu.ID(g.PCI); g.Memory == 0 && g.Driver != "" && !v.unknownSize[id] {
		v.unknownSize[id] = true
		v.host.Log.Warn("the driver does not report a GPU's memory, so the attribute memory is 0; "+
			"use xe with Linux 6.8 or later, or Intel's own i915", "gpu", id, "driver", g.Driver)
	}
}

// function describes a virtual function. Function 3 of GPU 0 has the index 103. These indexes differ
// from those of all GPUs, so splitting one GPU renames no group of another.
func (v *vendor) function(f, parent kernel.GPU, number int) share.Found {
	g := v.describe(f, parent, 100*(number+1)+f.Function)
	g.Parent, g.Profile = gpu.ID(parent.PCI), fmt.Sprintf("vf-%d", parent.Functions)
	return share.Found{
		GPU: g, Fraction: 1 / float64(parent.Functions),
		Slicing: share.Slicing{Why: "a virtual function serves only one task"},
		Part:    share.Part{Sharing: gpu.SharingFunction, Enforcement: gpu.EnforceFunction},
	}
}

// describe returns a GPU or function with the model of its physical GPU.
func (v *vendor) describe(g, physical kernel.GPU, index int) gpu.GPU {
	known := kernel.Models[physical.Device]
	name := cmp.Or(known.Name, fmt.Sprintf("Intel GPU %#04x", physical.Device))
	return gpu.GPU{
		ID: gpu.ID(g.PCI), Vendor: gpu.Intel, Index: index, Model: name,
		Class:  gpu.ClassOf(gpu.Intel, physical.Device, name),
		Memory: g.Memory, Target: known.Target, PCI: g.PCI, PCIDevice: physical.Device, NUMANode: g.NUMANode,
		Driver: v.driver(g.Driver),
	}
}

// driver returns the kernel driver's version: the driver's own if it was installed separately, else the
// kernel's.
func (v *vendor) driver(name string) string {
	if own := v.root.TextOr("", "/sys/module", name, "version"); own != "" {
		return own
	}
	return v.root.TextOr("", "/proc/sys/kernel/osrelease")
}

// Converge returns which GPUs cannot take tasks. It changes nothing on the host, because administrators
// create virtual functions.
func (v *vendor) Converge(_ context.Context, plan share.Plan) map[gpu.ID]plugin.State {
	out := map[gpu.ID]plugin.State{}
	for _, o := range plan.Offers {
		g, ok := v.known(o.ID)
		if !ok {
			continue // the plugin's loop reports that it is gone
		}
		out[o.ID] = plugin.State{
			Problem:    v.problem(g),
			Attributes: map[string]*structs.Attribute{"kernel_driver": structs.NewStringAttribute(g.Driver)},
		}
	}
	return out
}

func (v *vendor) known(id gpu.ID) (kernel.GPU, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g, ok := v.gpus[id]
	return g, ok
}

// problem returns the problem of a GPU or, for a virtual function, also that of its GPU.
func (v *vendor) problem(g kernel.GPU) string {
	if why := g.Problem(v.root); why != "" {
		return why
	}
	if parent, ok := v.known(gpu.ID(g.Parent)); ok {
		if why := parent.Problem(v.root); why != "" {
			return fmt.Sprintf("its GPU %s: %s", parent.PCI, why)
		}
	}
	return ""
}
