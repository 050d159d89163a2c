package driver

import (
	"fmt"
	"strings"
)

// Symptom is a present or expected problem with a host's drivers.
type Symptom struct {
	// Severe is set if tasks fail now; otherwise it is a warning.
	Severe bool
	What   string
	Fix    string
}

// Diagnose lists the problems with the drivers of a host.
func Diagnose(f Facts) []Symptom {
	var out []Symptom
	for _, v := range f.vendors() {
		m, _ := MakerOf(v)
		if len(m.Prefixes) == 0 {
			continue
		}
		out = append(out, versions(f, m)...)
		out = append(out, kind(f, m)...)
		out = append(out, packaging(f, m)...)
		out = append(out, parts(f, m)...)
	}
	return out
}

// versions compares the driver in the kernel, in the library and on disk.
func versions(f Facts, m Maker) []Symptom {
	d := f.Drivers[m.Vendor]
	switch {
	case d.Loaded == "":
		return []Symptom{{true, fmt.Sprintf("%d GPUs of %s are on the PCI bus, but no driver for them is loaded",
			f.Of(m.Vendor), m.name()),
			"aliquot node plan  says which driver they need"}}
	case d.Library != "" && d.Loaded != InTree && d.Library != d.Loaded:
		return []Symptom{{true,
			fmt.Sprintf("%s's library is %s and its loaded module is %s: new programs cannot use the GPUs",
				m.name(), d.Library, d.Loaded),
			"drain and reboot, and hold the packages, so that no upgrade does this again"}}
	case d.OnDisk != "" && d.Loaded != InTree && d.OnDisk != d.Loaded:
		return []Symptom{{false, fmt.Sprintf("%s's loaded module is %s, and the next boot loads %s", m.name(),
			d.Loaded, d.OnDisk),
			"drain and reboot at a time of your choice, or install " + d.Loaded + " again"}}
	}
	return nil
}

// kind checks whether the loaded driver supports all GPUs.
func kind(f Facts, m Maker) []Symptom {
	need, why := Intersect(Needs(f, m.Vendor))
	switch {
	case need.Never != "":
		// The GPU may work with a driver that is newer than this program.
		return []Symptom{{false, why, "choose its driver manually; aliquot node does not change this host"}}
	case why != "":
		return []Symptom{{true, why, "put the GPUs into different hosts"}}
	}
	d := f.Drivers[m.Vendor]
	if d.Loaded == "" || d.Loaded == InTree {
		return nil
	}
	if why := need.allows(d.Loaded, d.Modules); why != "" {
		return []Symptom{{true, fmt.Sprintf("%s's loaded driver does not fit the GPUs: %s", m.name(), why),
			"aliquot node plan  says which driver they need"}}
	}
	return nil
}

// packaging checks for packages that may change unattended, or that are broken.
func packaging(f Facts, m Maker) []Symptom {
	var out []Symptom
	d := f.Drivers[m.Vendor]
	if d.Foreign != "" {
		out = append(out, Symptom{false,
			fmt.Sprintf("%s's driver was installed by %s, so aliquot node does not change it", m.name(), d.Foreign),
			"install it from packages if aliquot node shall manage it"})
	}
	for _, p := range f.DriverPackages(m.Vendor) {
		if p.Broken != "" {
			out = append(out, Symptom{true, fmt.Sprintf("package %s is %s", p.Name, p.Broken),
				"dpkg --configure -a  says why; drain the node first"})
		}
	}
	if free := unheld(f, m.Vendor); len(free) > 0 {
		s := Symptom{false,
			fmt.Sprintf("%d packages of %s's driver are not held (%s): the next upgrade replaces the library under "+
				"the loaded module", len(free), m.name(), short(free)),
			"apt-mark hold " + strings.Join(free, " ")}
		if f.Unattended {
			s.What = fmt.Sprintf("unattended upgrades are on, and %d packages of %s's driver are not held (%s): "+
				"any night may replace the library under the loaded module", len(free), m.name(), short(free))
		}
		out = append(out, s)
	}
	return out
}

// parts checks the other parts of a driver: the tools for sharing and the fabric manager.
func parts(f Facts, m Maker) []Symptom {
	var out []Symptom
	d := f.Drivers[m.Vendor]
	if d.Loaded != "" && !d.Tools {
		out = append(out, Symptom{false,
			fmt.Sprintf("programs for sharing are missing (%s), so GPUs are offered whole",
				strings.Join(m.Tools, ", ")),
			"install the package that has them: " + m.ToolsIn})
	}
	if len(f.Switches) == 0 || m.Manager == "" {
		return out
	}
	manager := ""
	for _, p := range f.Packages {
		if strings.HasPrefix(p.Name, m.Manager) {
			manager = Upstream(p.Version)
		}
	}
	fix := "install " + m.Manager + " of exactly the driver's version"
	switch {
	case manager == "":
		out = append(out, Symptom{true,
			"the host has switches between its GPUs but no fabric manager, so the GPUs do not start", fix})
	case d.Loaded != "" && manager != d.Loaded:
		out = append(out, Symptom{true,
			fmt.Sprintf("fabric manager is %s and the loaded driver is %s: it does not start", manager, d.Loaded), fix})
	}
	return out
}
