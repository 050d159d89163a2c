// Package intel reads the files of Intel's kernel drivers, xe and i915: discrete GPUs, their
// virtual functions, and the processes that use them.
package intel

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// vendorID is Intel's PCI vendor ID, as sysfs writes it.
const vendorID = "0x8086"

// drivers are the kernel drivers whose GPUs can be used.
var drivers = []string{"xe", "i915"}

// Links is the directory of links through which the user-mode driver finds render nodes.
const Links = "/dev/dri/by-path"

// GPU is a discrete GPU, or a virtual function of one (SR-IOV).
type GPU struct {
	// PCI is the PCI address, which is also the name of the device's directory.
	PCI string
	// Device is the PCI device ID.
	Device uint16
	// Driver is the kernel driver that is bound to it, "" for none.
	Driver string
	// Render is the minor of its render node, -1 without one.
	Render int
	// Memory is its local memory, 0 if the kernel does not report it.
	Memory gpu.MiB
	// NUMANode is -1 when unknown.
	NUMANode int
	// Tiles is the number of parts that Level Zero counts as separate devices; at least 1.
	Tiles int
	// Parent is the address of the physical GPU of a virtual function, else "".
	Parent string
	// Function numbers the virtual functions of a GPU from 1; 0 on a physical GPU.
	Function int
	// Functions is the present number of virtual functions of the GPU.
	Functions int
}

func at(pci string, elem ...string) string {
	return path.Join(append([]string{host.PCIDevices, pci}, elem...)...)
}

// GPUs lists the discrete GPUs by address, each followed by its virtual functions. It leaves out
// functions that are bound to another driver, which are for virtual machines.
func GPUs(root host.Root) []GPU {
	var out []GPU
	for _, pci := range root.Names(host.PCIDevices) {
		if !discrete(root, pci) || root.Exists(at(pci, "physfn")) {
			continue
		}
		g := read(root, pci)
		functions := g.functions(root)
		g.Functions = len(functions)
		out = append(out, g)
		for i, address := range functions {
			f := read(root, address)
			if !slices.Contains(drivers, f.Driver) {
				continue
			}
			f.Parent, f.Function = pci, i+1
			if quota, err := root.Number(at(pci, "sriov_admin", fmt.Sprintf("vf%d", i+1),
				"profile", "vram_quota")); err == nil && quota > 0 {
				f.Memory = gpu.MiBOf(uint64(quota))
			}
			out = append(out, f)
		}
	}
	return out
}

// Present reports whether the machine has a discrete GPU with its driver.
func Present(root host.Root) bool {
	return slices.ContainsFunc(GPUs(root), func(g GPU) bool { return g.Driver != "" })
}

// discrete reports whether a PCI device is a GPU of Intel on a card.
func discrete(root host.Root, pci string) bool {
	class := root.TextOr("", at(pci, "class"))
	return root.TextOr("", at(pci, "vendor")) == vendorID &&
		(strings.HasPrefix(class, "0x0300") || strings.HasPrefix(class, "0x0380")) &&
		!integrated(root, pci)
}

// integrated reports whether a GPU is part of a processor. Such a GPU is always device 2 of the
// root bus. A virtual machine may have a card at that address, which has memory or a known model.
func integrated(root host.Root, pci string) bool {
	if !strings.HasSuffix(pci, ":00:02.0") {
		return false
	}
	if _, card := Models[deviceID(root, pci)]; card {
		return false
	}
	memory, _ := tiles(root, pci)
	return memory == 0
}

func deviceID(root host.Root, pci string) uint16 {
	id, _ := strconv.ParseUint(strings.TrimPrefix(root.TextOr("", at(pci, "device")), "0x"), 16, 16)
	return uint16(id)
}

func read(root host.Root, pci string) GPU {
	g := GPU{PCI: pci, Device: deviceID(root, pci), NUMANode: -1, Render: -1}
	if link, err := os.Readlink(root.Path(at(pci, "driver"))); err == nil {
		g.Driver = filepath.Base(link)
	}
	if minor, err := root.RenderMinor(pci); err == nil {
		g.Render = minor
	}
	if numa, err := root.Number(at(pci, "numa_node")); err == nil {
		g.NUMANode = int(numa)
	}
	g.Memory, g.Tiles = tiles(root, pci)
	return g
}

// tiles reads the data of xe about each tile, or of Intel's own i915 about the card.
func tiles(root host.Root, pci string) (memory gpu.MiB, count int) {
	var sum uint64
	for _, name := range numbered(root, at(pci), "tile") {
		count++
		if n, err := root.Number(at(pci, name, "physical_vram_size_bytes")); err == nil && n > 0 {
			sum += uint64(n)
		}
	}
	for _, card := range numbered(root, at(pci, "drm"), "card") {
		if n, err := root.Number(at(pci, "drm", card, "lmem_total_bytes")); sum == 0 && err == nil && n > 0 {
			sum = uint64(n)
		}
		if count == 0 {
			count = len(numbered(root, at(pci, "drm", card, "gt"), "gt"))
		}
	}
	return gpu.MiBOf(sum), max(1, count)
}

// numbered lists the entries of a folder whose names are a prefix and a number.
func numbered(root host.Root, dir, prefix string) []string {
	return slices.DeleteFunc(root.Names(dir), func(name string) bool {
		digits, ok := strings.CutPrefix(name, prefix)
		return !ok || digits == "" || strings.Trim(digits, "0123456789") != ""
	})
}

// functions returns the addresses of the GPU's virtual functions, in their order.
func (g GPU) functions(root host.Root) []string {
	type function struct {
		number  int
		address string
	}
	var found []function
	for _, name := range root.Names(at(g.PCI)) {
		digits, ok := strings.CutPrefix(name, "virtfn")
		n, err := strconv.Atoi(digits)
		link, err2 := os.Readlink(root.Path(at(g.PCI, name)))
		if ok && err == nil && err2 == nil {
			found = append(found, function{n, filepath.Base(link)})
		}
	}
	slices.SortFunc(found, func(a, b function) int { return cmp.Compare(a.number, b.number) })
	out := make([]string, len(found))
	for i, f := range found {
		out[i] = f.address
	}
	return out
}

// Problem returns why the GPU cannot take tasks, or "" if it can.
func (g GPU) Problem(root host.Root) string {
	switch {
	case g.Driver == "":
		return "no kernel driver is bound to it; load xe or i915"
	case root.Lost(g.PCI):
		return "it has fallen off the bus: its configuration space reads all ones; the host needs a reboot"
	case root.Exists(at(g.PCI, "survivability_mode")):
		return "its firmware is in survivability mode; update the firmware"
	case g.Render < 0:
		return "the kernel driver made no render node for it; look at the kernel's log"
	}
	return ""
}

// Nodes returns the render nodes of a grant, and of no other GPU.
func Nodes(root host.Root, g gpu.Grant) ([]string, error) {
	var paths []string
	for i, id := range g.GPUs {
		if i >= len(g.PCI) || g.PCI[i] == "" {
			return nil, fmt.Errorf(
				"the grant names no PCI address for GPU %s: "+
					"is the device plugin of the same release as the driver?", id)
		}
		minor, err := root.RenderMinor(host.KernelPCI(g.PCI[i]))
		if err != nil {
			return nil, fmt.Errorf("GPU %s: %w: is xe or i915 loaded, and bound to it?", id, err)
		}
		node := host.RenderNode(minor)
		if err := root.Device(node); err != nil {
			return nil, err
		}
		paths = append(paths, node)
	}
	return paths, nil
}
