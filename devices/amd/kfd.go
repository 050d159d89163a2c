package amd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

const (
	kfdNodes = "sys/class/kfd/kfd/topology/nodes"
	kfdProcs = "sys/class/kfd/kfd/proc"
	pciDir   = "sys/bus/pci/devices"
)

// amdVendor is the PCI vendor ID in KFD's properties.
const amdVendor = 0x1002

// node is one compute node of the kernel driver's topology (KFD): a GPU, or one
// partition of it.
type node struct {
	// Number of the node in the topology; it orders the GPUs as ROCm does.
	Number int
	// GPUID names the node in KFD's per-process files.
	GPUID uint64
	// Shape of the compute units.
	Shape share.CUShape
	// Target is the compile target, for example "gfx942".
	Target string
	// PCIDevice is the PCI device ID.
	PCIDevice uint16
	// Address is the PCI address of the card. On a partitioned card of an older
	// kernel its function is the partition's number and not of the PCI function.
	Address pciAddress
	// Partition is the number of the partition on its card, 0 on a whole one.
	Partition int
	// Render is the minor of /dev/dri/renderD<minor>.
	Render int
	// UniqueID is shared by the partitions of a card and 0 on many Radeons.
	UniqueID uint64
	// Memory in bytes that belongs to the node.
	Memory uint64
}

// pciAddress is domain:bus:device.function.
type pciAddress struct {
	Domain, Bus, Device, Function int
}

func (a pciAddress) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Device, a.Function)
}

// first is the address of function 0.
func (a pciAddress) first() pciAddress {
	a.Function = 0
	return a
}

// addressOf decodes KFD's location_id: bus, device and function in the low 16
// bits, the partition in bits 28..31 on newer kernels (Linux kfd_topology.c).
func addressOf(domain, location uint64) (address pciAddress, partition int) {
	return pciAddress{
		Domain:   int(domain & 0xffffffff),
		Bus:      int(location >> 8 & 0xff),
		Device:   int(location >> 3 & 0x1f),
		Function: int(location & 0x7),
	}, int(location >> 28 & 0xf)
}

// targetOf turns KFD's gfx_target_version (MMmmss, decimal) into "gfx942". Minor
// and stepping are hexadecimal digits.
func targetOf(v uint64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("gfx%d%x%x", v/10000, v/100%100, v%100)
}

// nodes reads the GPU nodes of the topology. Nodes that cannot be read are left
// out and reported, one error each.
func (m machine) nodes() ([]node, []error) {
	var found []node
	var errs []error
	for _, number := range m.numbered(kfdNodes) {
		n, err := m.node(number)
		switch {
		case errors.Is(err, errNoGPU):
		case err != nil:
			errs = append(errs, err)
		default:
			found = append(found, n)
		}
	}
	return found, errs
}

// errNoGPU marks a node of CPUs or of another maker.
var errNoGPU = errors.New("not an AMD GPU")

func (m machine) node(number int) (node, error) {
	dir := kfdNodes + "/" + strconv.Itoa(number)
	fail := func(err error) (node, error) {
		if errors.Is(err, os.ErrPermission) {
			return node{}, fmt.Errorf("KFD node %d cannot be read (%w): give the plugin root's rights, or its device cgroup access to the GPU", number, err)
		}
		return node{}, fmt.Errorf("KFD node %d: %w", number, err)
	}
	text, err := m.text(dir, "properties")
	if err != nil {
		return fail(err)
	}
	p, err := properties(text)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", m.path(dir, "properties"), err))
	}
	if err := need(p, "simd_count"); err != nil {
		return fail(fmt.Errorf("%s %w", m.path(dir, "properties"), err))
	}
	if p["simd_count"] == 0 {
		return node{}, errNoGPU
	}
	if err := need(p, "simd_per_cu", "vendor_id", "device_id", "location_id", "drm_render_minor"); err != nil {
		return fail(fmt.Errorf("%s %w", m.path(dir, "properties"), err))
	}
	if p["vendor_id"] != amdVendor {
		return node{}, errNoGPU
	}
	n, err := nodeOf(number, p)
	if err != nil {
		return fail(fmt.Errorf("%s %w", m.path(dir, "properties"), err))
	}
	// A tree captured without gpu_id still has all that scheduling needs.
	if id, err := m.number(dir, "gpu_id"); err == nil && id > 0 {
		n.GPUID = uint64(id)
	}
	n.Memory, _ = m.bank(dir, "size_in_bytes")
	return n, nil
}

// nodeOf builds a node from complete properties.
func nodeOf(number int, p map[string]uint64) (node, error) {
	if p["simd_per_cu"] == 0 || p["simd_count"]%p["simd_per_cu"] != 0 || p["simd_count"] > 1<<16 {
		return node{}, fmt.Errorf("has %d SIMDs of %d per compute unit, which is no GPU", p["simd_count"], p["simd_per_cu"])
	}
	if p["num_xcc"] > 64 || p["drm_render_minor"] > 1<<20 {
		return node{}, fmt.Errorf("has num_xcc %d and drm_render_minor %d, which is no GPU", p["num_xcc"], p["drm_render_minor"])
	}
	n := node{
		Number: number,
		Shape: share.CUShape{
			Units: int(p["simd_count"] / p["simd_per_cu"]),
			XCCs:  max(1, int(p["num_xcc"])),
			// From gfx10 on, two compute units form a work-group processor.
			Paired: p["gfx_target_version"] >= 100000,
		},
		Target:    targetOf(p["gfx_target_version"]),
		PCIDevice: uint16(p["device_id"]),
		Render:    int(p["drm_render_minor"]),
		UniqueID:  p["unique_id"],
	}
	n.Address, n.Partition = addressOf(p["domain"], p["location_id"])
	return n, nil
}

// bank sums a property over a node's frame-buffer banks (heap types 1 and 2,
// visible and not). The second result is false where there is none.
func (m machine) bank(dir, property string) (uint64, bool) {
	var sum uint64
	known := false
	for _, b := range m.numbered(dir, "mem_banks") {
		text, err := m.text(dir, "mem_banks", strconv.Itoa(b), "properties")
		if err != nil {
			continue
		}
		p, err := properties(text)
		if err == nil && (p["heap_type"] == 1 || p["heap_type"] == 2) {
			sum, known = sum+p[property], true
		}
	}
	return sum, known
}

// usedMemory is what KFD says that a node's memory banks hold, which is right
// for each partition where a card's own counter is not.
func (m machine) usedMemory(n node) (gpu.MiB, bool) {
	dir := kfdNodes + "/" + strconv.Itoa(n.Number)
	var sum uint64
	known := false
	for _, b := range m.numbered(dir, "mem_banks") {
		text, err := m.text(dir, "mem_banks", strconv.Itoa(b), "used_memory")
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
