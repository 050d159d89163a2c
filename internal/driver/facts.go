// Package driver decides which kernel driver a host's GPUs need, which packages bring it,
// and what a node does next on its way there. It takes facts and returns plans; what
// reads a host is in internal/host/inventory, what changes one in package node.
package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Facts are what is known of a host. They are read without any driver.
type Facts struct {
	// Arch is the package architecture, such as amd64.
	Arch string `json:"arch"`
	// Kernel is the release of the running kernel, as uname -r prints it.
	Kernel       string       `json:"kernel"`
	Distribution Distribution `json:"distribution"`
	// BootID is the kernel's, another after every boot.
	BootID string `json:"boot_id"`
	// GPUs are the display and compute devices on the PCI bus of makers that have drivers
	// here; Switches those between GPUs.
	GPUs     []Device `json:"gpus"`
	Switches []Device `json:"switches,omitempty"`
	// Drivers is what is there of each maker's driver.
	Drivers map[gpu.Vendor]Installed `json:"drivers,omitempty"`
	// Packages are the installed packages of drivers, and those that matter for them.
	Packages []Package `json:"packages,omitempty"`
	// Available are the versions that the host's package sources offer, by name, newest
	// first; nil where that was not asked.
	Available map[string][]string `json:"-"`
	// SecureBoot tells whether the firmware lets only signed code into the kernel.
	SecureBoot bool `json:"secure_boot"`
	// Holders are the processes that have a GPU's device node open.
	Holders []Process `json:"holders,omitempty"`
	// Container says by what sign this is a container and no host; "" for a host.
	Container string `json:"container,omitempty"`
	// Hypervisor names a distribution whose kernel packages depend on what a GPU's driver
	// replaces, such as Proxmox; "" for none.
	Hypervisor string `json:"hypervisor,omitempty"`
	// Unattended tells that the host upgrades packages by itself.
	Unattended bool `json:"unattended_upgrades"`
	// Uses are the reference counts of loaded modules by name.
	Uses map[string]int `json:"module_uses,omitempty"`
}

// Distribution is what /etc/os-release says.
type Distribution struct {
	ID      string `json:"id"`      // debian, ubuntu, rhel, …
	Version string `json:"version"` // 12, 24.04, 9.4
	Like    string `json:"like,omitempty"`
}

func (d Distribution) String() string { return strings.TrimSpace(d.ID + " " + d.Version) }

// is reports whether the distribution is one of a family.
func (d Distribution) is(family string) bool {
	return d.ID == family || slices.Contains(strings.Fields(d.Like), family)
}

// Device is a device on the PCI bus.
type Device struct {
	Address string     `json:"address"` // as the kernel writes it, 0000:c1:00.0
	Vendor  gpu.Vendor `json:"vendor"`
	ID      uint16     `json:"device"` // PCI device ID
	Class   uint32     `json:"class"`  // PCI class code, 24 bits
}

func (d Device) String() string {
	name := string(d.Vendor)
	if m, ok := gpu.MakerOf(d.Vendor); ok {
		name = m.Name
	}
	return fmt.Sprintf("%s %04x at %s", name, d.ID, d.Address)
}

// Installed is what a host has of one maker's driver. Versions are the maker's own.
type Installed struct {
	// Loaded is the version of the module in the running kernel, "" where none is loaded,
	// and InTree for the one that came with the kernel.
	Loaded string `json:"loaded,omitempty"`
	// Modules is the kind of the loaded module.
	Modules Flavour `json:"modules,omitempty"`
	// OnDisk is the version that the running kernel would load next.
	OnDisk string `json:"on_disk,omitempty"`
	// Library is the version of the user-space library that programs load.
	Library string `json:"library,omitempty"`
	// Foreign says what brought the driver, where it was not a package; "" for packages.
	Foreign string `json:"foreign,omitempty"`
	// Tools tells whether the programs that sharing needs are there.
	Tools bool `json:"tools"`
}

// InTree is the version of a module that came with the kernel and has none of its own.
const InTree = "in-tree"

// Flavour is the kind of a kernel module of which there are two.
type Flavour string

// The kinds; "" stands for either, or for a maker that has only one.
const (
	Open   Flavour = "open"
	Closed Flavour = "closed"
)

// Package is an installed package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"` // the distribution's, with epoch and revision
	// Held tells that upgrades leave it alone.
	Held bool `json:"held,omitempty"`
	// Broken is its state where it is not installed whole, such as half-configured.
	Broken string `json:"broken,omitempty"`
}

// Process has a GPU's device node open.
type Process struct {
	PID     int        `json:"pid"`
	Name    string     `json:"name"`
	Device  string     `json:"device"`
	Vendor  gpu.Vendor `json:"vendor"`
	Display bool       `json:"display,omitempty"` // it draws on a screen
	// Ours tells that it is a part of this suite, or a service that belongs to the driver
	// and is started again.
	Ours bool `json:"ours,omitempty"`
}

func (p Process) String() string { return fmt.Sprintf("%s (PID %d, %s)", p.Name, p.PID, p.Device) }

// vendors are those of the host's GPUs whose drivers come in packages, in the order of
// Makers; the others, such as processors' own graphics, only where there is nothing else.
func (f Facts) vendors() []gpu.Vendor {
	var out, kernels []gpu.Vendor
	for _, m := range Makers() {
		switch {
		case f.Of(m.Vendor) == 0:
		case len(m.Prefixes) > 0:
			out = append(out, m.Vendor)
		default:
			kernels = append(kernels, m.Vendor)
		}
	}
	if out == nil {
		return kernels
	}
	return out
}

// Of counts the GPUs of a vendor.
func (f Facts) Of(v gpu.Vendor) int {
	n := 0
	for _, d := range f.GPUs {
		if d.Vendor == v {
			n++
		}
	}
	return n
}

// DriverPackages are the installed packages of a vendor's driver.
func (f Facts) DriverPackages(v gpu.Vendor) []Package {
	m, ok := MakerOf(v)
	if !ok {
		return nil
	}
	var out []Package
	for _, p := range f.Packages {
		if m.Owns(p.Name) {
			out = append(out, p)
		}
	}
	return out
}

func (f Facts) installed(name string) bool {
	return slices.ContainsFunc(f.Packages, func(p Package) bool { return p.Name == name && p.Broken == "" })
}
