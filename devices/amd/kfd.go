package amd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/amd"
	"aliquot.example/internal/share"
)

const (
	kfdNodes = kernel.Topology
	kfdProcs = kernel.Processes
	pciDir   = host.PCIDevices
)

// node is one compute node of the kernel driver's topology (KFD): a GPU, or one
// partition of it.
type node struct {
	kernel.Node
	// GPUID names the node in KFD's per-process files.
	GPUID uint64
	// Shape of the compute units.
	Shape share.CUShape
	// Target is the compile target, for example "gfx942".
	Target string
	// PCIDevice is the PCI device ID.
	PCIDevice uint16
	// UniqueID is shared by the partitions of a card and 0 on many Radeons.
	UniqueID uint64
	// Memory is the node's memory in bytes.
	Memory uint64
}

// pciAddress is domain:bus:device.function.
type pciAddress = host.PCI

// targetOf turns KFD's gfx_target_version (MMmmss, decimal) into "gfx942". Minor
// and stepping are hexadecimal digits.
func targetOf(v uint64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("gfx%d%x%x", v/10000, v/100%100, v%100)
}

// nodes reads the GPU nodes of the topology. It leaves out nodes that cannot be read and returns an
// error for each.
func (m machine) nodes() ([]node, []error) {
	listed, errs := kernel.Nodes(m.Root, "simd_per_cu", "vendor_id", "device_id")
	var found []node
	for _, l := range listed {
		dir := kfdNodes + "/" + strconv.Itoa(l.Number)
		n, err := nodeOf(l.Number, l.Properties)
		if err != nil {
			errs = append(errs, fmt.Errorf("KFD node %d: %s %w", l.Number, m.Path(dir, "properties"), err))
			continue
		}
		// A tree that was captured without gpu_id still has everything for scheduling.
		if id, err := m.Number(dir, "gpu_id"); err == nil && id > 0 {
			n.GPUID = uint64(id)
		}
		n.Memory, _ = m.bank(dir, "size_in_bytes")
		found = append(found, n)
	}
	return found, errs
}

// nodeOf builds a node from complete properties.
func nodeOf(number int, p map[string]uint64) (node, error) {
	if p["simd_per_cu"] == 0 || p["simd_count"]%p["simd_per_cu"] != 0 || p["simd_count"] > 1<<16 {
		return node{}, fmt.Errorf("has %d SIMDs with %d per compute unit, which no GPU has", p["simd_count"],
			p["simd_per_cu"])
	}
	if p["num_xcc"] > 64 || p["drm_render_minor"] > 1<<20 {
		return node{}, fmt.Errorf("has num_xcc %d and drm_render_minor %d, which no GPU has", p["num_xcc"],
			p["drm_render_minor"])
	}
	return node{
		Node: kernel.NodeOf(number, p),
		Shape: share.CUShape{
			Units: int(p["simd_count"] / p["simd_per_cu"]),
			XCCs:  max(1, int(p["num_xcc"])),
			// From gfx10 on, two compute units form a work-group processor.
			Paired: p["gfx_target_version"] >= 100000,
		},
		Target:    targetOf(p["gfx_target_version"]),
		PCIDevice: uint16(p["device_id"]),
		UniqueID:  p["unique_id"],
	}, nil
}

// xgmi is HSA_IOLINK_TYPE_XGMI of the kernel's kfd_crat.h.
const xgmi = 11

// links lists the PCI addresses of the cards to which one card has xGMI links.
func (m machine) links(cards []card, of int) []string {
	at := map[uint64]int{} // card of a node
	for i, c := range cards {
		for _, n := range c.Nodes {
			at[uint64(n.Number)] = i
		}
	}
	var out []string
	for _, n := range cards[of].Nodes {
		dir := kfdNodes + "/" + strconv.Itoa(n.Number) + "/io_links"
		for _, link := range m.Numbered(dir) {
			text, err := m.Text(dir, strconv.Itoa(link), "properties")
			if err != nil {
				continue
			}
			p := kernel.Properties(text)
			if far, ok := at[p["node_to"]]; ok && p["type"] == xgmi && far != of {
				out = append(out, cards[far].PCI.String())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// bank adds up a property of a node's frame-buffer banks (heap types 1 and 2, visible and not). The
// second result is false if there are no such banks.
func (m machine) bank(dir, property string) (uint64, bool) {
	var sum uint64
	known := false
	for _, b := range m.Numbered(dir, "mem_banks") {
		text, err := m.Text(dir, "mem_banks", strconv.Itoa(b), "properties")
		if err != nil {
			continue
		}
		if p := kernel.Properties(text); p["heap_type"] == 1 || p["heap_type"] == 2 {
			sum, known = sum+p[property], true
		}
	}
	return sum, known
}

// usedMemory returns the memory in use on a node according to KFD. It is right for each partition,
// while the card's counter is not.
func (m machine) usedMemory(n node) (gpu.MiB, bool) {
	dir := kfdNodes + "/" + strconv.Itoa(n.Number)
	var sum uint64
	known := false
	for _, b := range m.Numbered(dir, "mem_banks") {
		text, err := m.Text(dir, "mem_banks", strconv.Itoa(b), "used_memory")
		if err != nil {
			continue
		}
		// The file is a bare number on some kernels and "used_memory <n>" on others.
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if used, err := strconv.ParseUint(fields[len(fields)-1], 10, 64); err == nil {
			sum, known = sum+used, true
		}
	}
	return gpu.MiBOf(sum), known
}
