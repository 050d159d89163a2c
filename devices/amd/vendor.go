// Package amd is AMD's part of the device plugin: GPUs and partitions from the kernel driver's files
// (KFD and sysfs), health and load also from AMD's management library if it is installed, compute
// partitions, and CU masks.
//
// The kernel's files alone are enough to serve a host. The library adds names, error counts, events and
// readings that not every kernel has. It is loaded at run time without cgo, and only if its release is
// known.
package amd

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// Name of the plugin and its binary.
const Name = "aliquot-device-amd"

// Maker describes AMD's plugin.
func Maker() plugin.Maker {
	return plugin.Maker{
		Name:    Name,
		Vendor:  gpu.AMD,
		Modes:   []share.Mode{share.Shared, share.Whole, share.Partition, share.Off},
		Keys:    []plugin.Key{{Name: "library"}, {Name: "max_uncorrectable"}, {Name: "max_bad_pages"}},
		GPUKeys: []plugin.Key{{Name: "partition"}},
		New:     newVendor,
	}
}

// vendor implements plugin.Vendor.
type vendor struct {
	machine
	cfg    plugin.Config
	host   plugin.Host
	logged journal
	// maxUncorrectable RAS errors are tolerated. With maxBadPages 0, the card's own limit
	// applies.
	maxUncorrectable, maxBadPages int
	lib                           library
	split                         partitioner
	// missed counts the calls about a card that have failed since its last answer. Only rounds
	// use it.
	missed map[gpu.ID]int

	mu    sync.Mutex
	cards []card
	// unhealthy has the reason why a card takes no tasks, as of the last round.
	unhealthy map[gpu.ID]string
}

func newVendor(cfg plugin.Config, with plugin.Host) (plugin.Vendor, error) {
	v := &vendor{
		machine:          machine{host.Root(cfg.Root)},
		cfg:              cfg,
		host:             with,
		logged:           journal{log: with.Log, logged: map[string]string{}},
		maxUncorrectable: cfg.Settings.Int("max_uncorrectable", 0, 0, 1<<30),
		maxBadPages:      cfg.Settings.Int("max_bad_pages", 0, 0, 1<<30),
		missed:           map[gpu.ID]int{},
	}
	path := ""
	if cfg.Settings.Has("library") {
		path = cfg.Settings.Path("library", "/opt/rocm/lib/libamd_smi.so")
	}
	v.lib = library{machine: v.machine, path: path, logged: &v.logged, wake: with.Wake}
	v.split = partitioner{machine: v.machine, logged: &v.logged, wake: with.Wake}
	return v, cfg.Settings.Err()
}

// Inventory reads the topology. It leaves out nodes that cannot be read and logs them once.
func (v *vendor) Inventory(context.Context) ([]share.Found, error) {
	nodes, errs := v.nodes()
	v.logged.warn("nodes", "cannot read some GPUs, offering the others", lines(errs))
	if err := v.driverGone(nodes, errs); err != nil {
		v.lib.stop()
		return nil, err
	}
	cards := v.machine.cards(nodes)
	v.place(cards)
	v.lib.follow(cards)
	v.mu.Lock()
	v.cards = cards
	v.mu.Unlock()
	return v.found(cards), nil
}

// lines joins errors on one line, "" for none.
func lines(errs []error) string {
	out := make([]string, len(errs))
	for i, err := range errs {
		out[i] = err.Error()
	}
	return strings.Join(out, "; ")
}

// place sets every card's Order to the number that it had first.
func (v *vendor) place(cards []card) {
	counted := make([]plugin.Counted, len(cards))
	for i, c := range cards {
		counted[i] = plugin.Counted{ID: c.ID, Number: i}
	}
	for i, number := range v.host.Numbers.Of(counted) {
		cards[i].Order = number
	}
}

func (v *vendor) driverGone(nodes []node, errs []error) error {
	switch {
	case !v.Exists("sys/module/amdgpu") && len(nodes) == 0:
		return fmt.Errorf("the amdgpu driver is not loaded (no %s): %w", v.Path("sys/module/amdgpu"), plugin.ErrAbsent)
	case len(nodes) == 0 && len(errs) == 0:
		return fmt.Errorf("the amdgpu driver lists no GPU for compute in %s: %w", v.Path(kfdNodes), plugin.ErrAbsent)
	case !v.Exists("dev/kfd"):
		return fmt.Errorf("%s is missing, so no task could use a GPU; load amdgpu with KFD support: %w",
			v.Path("dev/kfd"), plugin.ErrAbsent)
	}
	return nil
}

// asPartition says how a task is confined to a partition, or to a card in SPX mode.
var asPartition = share.Part{Sharing: gpu.SharingPartition, Enforcement: gpu.EnforcePartition}

// found describes cards and partitions for the plan.
func (v *vendor) found(cards []card) []share.Found {
	driver, runtime := v.driver(), v.rocm()
	var out []share.Found
	for _, c := range cards {
		whole := v.describe(c)
		whole.Driver, whole.Runtime = driver, runtime
		physical := share.Found{GPU: whole, Split: c.partitioned(), Fraction: halves[whole.PCIDevice],
			Part: asPartition}
		physical.Aside = displayOnly(c, cards)
		if !c.partitioned() {
			physical.Slicing = slicing(c.Nodes[0].Shape)
			out = append(out, physical)
			continue
		}
		out = append(out, physical)
		for _, n := range c.Nodes {
			part := whole
			part.ID, part.Parent = c.id(n), c.ID
			part.Index = partitionIndex(c, n)
			part.Memory, part.Units = gpu.MiBOf(n.Memory), n.Shape.Units
			out = append(out, share.Found{GPU: part, Fraction: 1 / float64(c.parts()), Slicing: slicing(n.Shape),
				Part: asPartition})
		}
	}
	return out
}

// displayOnly returns why a GPU is not offered because it is part of a processor and only drives a screen, or
// "" if it is offered. Such a GPU has few compute units and a little of the host's memory, while another
// card has many more units.
func displayOnly(c card, all []card) string {
	size := func(c card) (units int, memory uint64) {
		for _, n := range c.Nodes {
			units, memory = units+n.Shape.Units, memory+n.Memory
		}
		return units, memory
	}
	units, memory := size(c)
	if units > 16 || memory >= 4<<30 {
		return ""
	}
	for _, o := range all {
		if more, _ := size(o); more >= 4*units {
			return fmt.Sprintf("its size is that of a GPU inside a processor (%d compute units, %d MiB)",
				units, memory>>20)
		}
	}
	return ""
}

// halves are boards with two GPUs that have separate PCI addresses. The hardware table describes the
// whole board.
var halves = map[uint16]float64{0x7408: 0.5, 0x740c: 0.5} // MI250X

// partitionIndex returns 103 for partition 3 of card 0. These numbers differ from those of all cards, so
// repartitioning one card renames no group of another.
func partitionIndex(c card, n node) int { return 100*(c.Order+1) + n.Partition }

// describe returns a card as one GPU.
func (v *vendor) describe(c card) gpu.GPU {
	first := c.Nodes[0]
	g := gpu.GPU{
		ID: c.ID, Vendor: gpu.AMD, Index: c.Order, PCI: c.PCI.String(), PCIDevice: first.PCIDevice,
		Target: first.Target, NUMANode: c.NUMANode, Links: c.Links, Profile: c.profile(),
		Model: cmp.Or(v.lib.name(c), v.modelOf(c)),
	}
	var memory uint64
	for _, n := range c.Nodes {
		memory += n.Memory
		g.Units += n.Shape.Units
	}
	if g.Memory = gpu.MiBOf(memory); g.Memory == 0 {
		g.Memory = v.lib.memory(c)
	}
	g.Class = gpu.ClassOf(gpu.AMD, g.PCIDevice, g.Model)
	return g
}

// slicing says how CU masks divide a GPU or partition.
func slicing(shape share.CUShape) share.Slicing {
	s := share.Slicing{Sharing: gpu.SharingCUMask, Enforcement: gpu.EnforceCUMask, Memory: gpu.LevelNone,
		Max: shape.MaxSlices(), Parts: shape.Steps()}
	unit := "compute units"
	if shape.Paired {
		unit = "compute units in pairs"
	}
	s.Why = fmt.Sprintf("CU masks cannot divide its %d %s on %d XCCs into more slices", shape.Units, unit, shape.XCCs)
	if s.Max == 0 {
		s.Sharing = ""
	}
	return s
}

// known returns the card and the node of an offer.
func (v *vendor) known(id gpu.ID) (card, node, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.cards {
		for _, n := range c.Nodes {
			if c.id(n) == id {
				return c, n, true
			}
		}
	}
	return card{}, node{}, false
}
