package driver

import (
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Maker describes one vendor's driver. Each vendor has a file with its value.
type Maker struct {
	Vendor gpu.Vendor
	// PCI is the maker's PCI vendor ID.
	PCI uint16
	// Switches are the device IDs of switches between GPUs that need a service of the driver.
	Switches []uint16
	// Module is the name of the loaded driver in the kernel; Files are its possible names on disk,
	// for modinfo, in order.
	Module string
	Files  []string
	// About is a file that contains OpenWords if the loaded module is of the kind Open; "" for none.
	About, OpenWords string
	// Unload are the modules to unload for a reload, in order; none if only a reboot can load another
	// driver.
	Unload []string
	// Library is the soname of a library whose file name ends with the driver's version,
	// "" for none.
	Library string
	// Tools are programs for sharing that come with a package of the driver.
	Tools []string
	// ToolsIn says which packages contain the tools. Manager is the prefix of the name of the package
	// that GPUs behind switches need to start, "" for none.
	ToolsIn, Manager string
	// Services are the driver's systemd units that have the device open. They are stopped for a reload
	// and started again.
	Services []string
	// Ours are names of processes that belong to Aliquot or to the driver.
	Ours []string
	// Nodes are prefixes of the names of its device nodes in /dev. Screens are those that only
	// programs with a display open.
	Nodes, Screens []string
	// Foreign maps files that exist only if the driver was not installed from packages to what has
	// installed it.
	Foreign map[string]string
	// Longer is set if a package's version begins with the driver's and continues after it.
	Longer bool
	// Prefixes are prefixes of the names of the driver's packages; Others are prefixes of other
	// packages among them.
	Prefixes, Others []string
	// Require returns what a GPU needs, by its PCI device ID.
	Require func(Device) Requirement
	// Sets lists the sets of packages that provide a version, the preferred one first.
	Sets func(f Facts, version string, modules Flavour) []Set
	// Flavours lists the kinds of modules with which a version can come, the preferred
	// one first.
	Flavours func(version string, installed Flavour) []Flavour
	// Other reports whether a package contains modules of the kind that is not wanted.
	Other func(name string, want Flavour) bool
	// ByHand returns the commands for an operator where this program cannot install packages.
	ByHand func(d Distribution, version string) string
	// Extra lists further packages that the host needs with a version, such as those of
	// switches.
	Extra func(f Facts, version string, s Set) []SetPackage
}

// Set is a set of packages that together install a driver.
type Set struct {
	// Source is who provides the packages, Where the package source that has them.
	Source, Where string
	Packages      []SetPackage
	// DKMS is set if the modules are compiled on the host, so that the firmware knows no key that
	// signs them.
	DKMS bool
}

// SetPackage is a package of a set.
type SetPackage struct {
	Name string
	// Any accepts the newest version, because the package's version is not that of the driver.
	Any bool
	// Optional packages are left out if they are not offered.
	Optional bool
}

// Makers returns the makers whose drivers are known, in the order of gpu.Makers.
func Makers() []Maker { return []Maker{nvidia, amd, intel} }

// MakerOf returns the maker of a vendor; false for one whose driver is not known.
func MakerOf(v gpu.Vendor) (Maker, bool) {
	for _, m := range Makers() {
		if m.Vendor == v {
			return m, true
		}
	}
	return Maker{}, false
}

// Owns reports whether a package is a part of the maker's driver.
func (m Maker) Owns(name string) bool {
	has := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	return slices.ContainsFunc(m.Prefixes, has) && !slices.ContainsFunc(m.Others, has)
}

// name returns the vendor's own spelling.
func (m Maker) name() string {
	named, _ := gpu.MakerOf(m.Vendor)
	return named.Name
}

// carries reports whether a package with a version contains a version of the driver.
func (m Maker) carries(version, want string) bool {
	up := Upstream(version)
	return up == want || m.Longer && strings.HasPrefix(up, want+".")
}
