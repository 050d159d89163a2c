package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// PCIDevices is the directory of the kernel's PCI devices.
const PCIDevices = "/sys/bus/pci/devices"

// PCI is a PCI address: domain:bus:device.function.
type PCI struct {
	Domain, Bus, Device, Function int
}

func (a PCI) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Device, a.Function)
}

// First is the address of function 0.
func (a PCI) First() PCI {
	a.Function = 0
	return a
}

// KernelPCI formats a PCI address like the names of the kernel's directories: with four digits of
// domain, in lower case. NVML writes eight digits.
func KernelPCI(pci string) string {
	pci = strings.ToLower(pci)
	if domain, rest, ok := strings.Cut(pci, ":"); ok && len(domain) == 8 {
		return strings.TrimPrefix(domain, "0000") + ":" + rest
	}
	return pci
}

// Lost reports whether a PCI device no longer responds on the bus: its configuration space then
// reads as all ones.
func (r Root) Lost(pci string) bool {
	f, err := os.Open(r.Path(PCIDevices, pci, "config"))
	if err != nil {
		return false
	}
	defer f.Close()
	var id [4]byte
	n, _ := f.Read(id[:])
	return n == len(id) && id == [4]byte{0xff, 0xff, 0xff, 0xff}
}

// PCISwitch returns the address of the PCIe switch above a device: the upstream port of the switch
// or, if switches are chained, of the one closest to the processor. It returns "" for a device on a
// port of the processor, and if the kernel shows no tree, as in many virtual machines.
func (r Root) PCISwitch(pci string) string {
	target, err := os.Readlink(r.Path(PCIDevices, pci))
	if err != nil {
		return ""
	}
	// ../../../devices/pci0000:00/<root port>/<upstream port>/<downstream port>/<device>
	var path []string
	for _, part := range strings.Split(target, "/") {
		if strings.Count(part, ":") == 2 && strings.Contains(part, ".") {
			path = append(path, part)
		}
	}
	if len(path) < 4 {
		return ""
	}
	return path[1]
}

// RenderNode is the device node of a render minor.
func RenderNode(minor int) string { return fmt.Sprintf("/dev/dri/renderD%d", minor) }

// RenderMinor returns the render minor of the PCI device at an address. It fails unless the kernel
// driver has created exactly one render node.
func (r Root) RenderMinor(pci string) (int, error) {
	var minors []int
	for _, name := range r.Names(PCIDevices, pci, "drm") {
		digits, ok := strings.CutPrefix(name, "renderD")
		if n, err := strconv.Atoi(digits); ok && err == nil && n >= 0 {
			minors = append(minors, n)
		}
	}
	if len(minors) != 1 {
		return 0, fmt.Errorf("%s has no render node for %s", r.Path("/sys"), pci)
	}
	return minors[0], nil
}
