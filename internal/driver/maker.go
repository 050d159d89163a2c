package driver

import (
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Maker is what must be known of one maker's driver: a value in a file of its own for
// each.
type Maker struct {
	Vendor gpu.Vendor
	// PCI is the maker's PCI vendor ID.
	PCI uint16
	// Switches are the device IDs of what connects GPUs and needs a service of the driver.
	Switches []uint16
	// Module is the name by which the kernel knows the loaded driver; Files those by which
	// modinfo knows it on disk, in order.
	Module string
	Files  []string
	// About is a file that says which kind of module is loaded, by the words of OpenWords;
	// "" for none.
	About, OpenWords string
	// Unload are the modules to take out for a reload, in order; none where only a reboot
	// brings another driver into the kernel.
	Unload []string
	// Library is the soname of a library whose file name ends with the driver's version,
	// "" for none.
	Library string
	// Tools are programs that sharing needs and a package of the driver brings.
	Tools []string
	// ToolsIn says which packages bring the tools. Manager is the beginning of the name of
	// the package without which GPUs behind switches do not start, "" for none.
	ToolsIn, Manager string
	// Services are units of systemd that have the device open and belong to the driver;
	// they are stopped for a reload and started again.
	Services []string
	// Ours are names of processes that belong to this suite or to the driver.
	Ours []string
	// Nodes are the beginnings of the names of its device nodes in /dev. Screens are those
	// that only a program opens that draws.
	Nodes, Screens []string
	// Foreign are files by which one knows a driver that no package brought, with what
	// brought it.
	Foreign map[string]string
	// Longer tells that the version of a package goes on after the driver's.
	Longer bool
	// Prefixes are the beginnings of the names of its driver's packages; Others are names
	// that begin so and belong to something else.
	Prefixes, Others []string
	// Require returns what a GPU needs, by its PCI device ID.
	Require func(Device) Requirement
	// Sets lists the sets of packages that bring a version, the preferred one first.
	Sets func(f Facts, version string, modules Flavour) []Set
	// Flavours lists the kinds of modules with which a version can come, the preferred
	// one first.
	Flavours func(version string, installed Flavour) []Flavour
	// Other reports whether a package holds modules of another kind than the one that is
	// wanted.
	Other func(name string, want Flavour) bool
	// ByHand is what an operator types where this program installs nothing.
	ByHand func(d Distribution, version string) string
	// Extra lists further packages that the host needs with a version, such as those of
	// switches.
	Extra func(f Facts, version string, s Set) []Wish
}

// Set is a way to have a driver by packages.
type Set struct {
	// Source says whose packages they are, and where they come from.
	Source, Where string
	Wishes        []Wish
	// DKMS tells that the modules are compiled on the host, and are signed by no key that
	// the firmware knows.
	DKMS bool
}

// Wish is a package of a set.
type Wish struct {
	Name string
	// Any takes the newest version that is offered, because it has a version of its own.
	Any bool
	// Optional is left out where it is not offered.
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

// name is the maker's own spelling.
func (m Maker) name() string {
	named, _ := gpu.MakerOf(m.Vendor)
	return named.Name
}

// carries reports whether a package's version is that of a driver.
func (m Maker) carries(version, want string) bool {
	up := Upstream(version)
	return up == want || m.Longer && strings.HasPrefix(up, want+".")
}
