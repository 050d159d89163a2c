// Package driver decides which kernel driver a host's GPUs need, which packages provide it, and the
// next step of a node's change to it. It maps facts to plans. Package internal/host/inventory reads
// the facts, and package node executes the plans.
package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Facts describe a host. Reading them requires no driver.
type Facts struct {
	// Arch is the package architecture, such as amd64.
	Arch string `json:"arch"`
	// Kernel is the release of the running kernel, as uname -r prints it.
	Kernel       string       `json:"kernel"`
	Distribution Distribution `json:"distribution"`
	// BootID is the kernel's boot ID, which changes with every boot.
	BootID string `json:"boot_id"`
	// GPUs are the display and compute devices on the PCI bus from vendors in Makers; Switches are
	// the switches between GPUs.
	GPUs     []Device `json:"gpus"`
	Switches []Device `json:"switches,omitempty"`
	// Drivers has the installed driver of each vendor.
	Drivers map[gpu.Vendor]Installed `json:"drivers,omitempty"`
	// Packages are the installed packages of drivers, and those that matter for them.
	Packages []Package `json:"packages,omitempty"`
	// Available are the versions that the host's package sources offer, by package, newest first;
	// nil if they were not queried.
	Available map[string][]string `json:"-"`
	// SecureBoot is set if the kernel loads only signed modules.
	SecureBoot bool `json:"secure_boot"`
	// Holders are the processes that have a GPU's device node open.
	Holders []Process `json:"holders,omitempty"`
	// Container is the evidence that this is a container; "" on a host.
	Container string `json:"container,omitempty"`
	// Hypervisor names a distribution whose kernel packages conflict with those of GPU drivers,
	// such as Proxmox; "" for none.
	Hypervisor string `json:"hypervisor,omitempty"`
	// Unattended is set if the host upgrades packages automatically.
	Unattended bool `json:"unattended_upgrades"`
	// Uses are the reference counts of loaded modules by name.
	Uses map[string]int `json:"module_uses,omitempty"`
}

// Distribution is the content of /etc/os-release.
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

// Installed is the state of one vendor's driver on a host. Versions are the vendor's, not those of
// packages.
type Installed struct {
	// Loaded is the version of the module in the running kernel, "" if none is loaded, and InTree for
	// the kernel's own module.
	Loaded string `json:"loaded,omitempty"`
	// Modules is the kind of the loaded module.
	Modules Flavour `json:"modules,omitempty"`
	// OnDisk is the version that the running kernel would load.
	OnDisk string `json:"on_disk,omitempty"`
	// Library is the version of the user-space library that programs load.
	Library string `json:"library,omitempty"`
	// Foreign is what installed the driver if it was not a package; "" for packages.
	Foreign string `json:"foreign,omitempty"`
	// Tools is set if the programs for sharing are installed.
	Tools bool `json:"tools"`
}

// InTree stands for the version of a kernel's own module, which has none.
const InTree = "in-tree"

// Flavour is the kind of a kernel module, for drivers with two kinds.
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
	// Held is set if upgrades skip the package.
	Held bool `json:"held,omitempty"`
	// Broken is its state if it is not completely installed, such as half-configured.
	Broken string `json:"broken,omitempty"`
}

// Process has a GPU's device node open.
type Process struct {
	PID     int        `json:"pid"`
	Name    string     `json:"name"`
	Device  string     `json:"device"`
	Vendor  gpu.Vendor `json:"vendor"`
	Display bool       `json:"display,omitempty"` // it draws on a screen
	// Ours is set for programs of Aliquot, and for services of the driver, which are restarted.
	Ours bool `json:"ours,omitempty"`
}

func (p Process) String() string { return fmt.Sprintf("%s (PID %d, %s)", p.Name, p.PID, p.Device) }

// vendors returns the vendors of the host's GPUs, in the order of Makers. It includes vendors whose
// drivers do not come in packages, such as processors' graphics, only if there are no others.
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

// DriverPackages returns the installed packages of a vendor's driver.
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
