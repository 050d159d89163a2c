package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Want is the driver that the nodes of a class shall have.
type Want struct {
	// Version is the vendor's complete version, such as 580.126.09; "" for the newest that is offered,
	// which is valid only for a plan that is not executed.
	Version string `json:"version"`
	// Vendor is needed for hosts with GPUs of several makers.
	Vendor gpu.Vendor `json:"vendor,omitempty"`
	// Modules chooses the kind of kernel module; "" keeps what is there.
	Modules Flavour `json:"modules,omitempty"`
	// Canary names the nodes that change first. Without it, the first node to take a slot changes alone.
	Canary []string `json:"canary,omitempty"`
	// DrainDeadline is the time after which tasks that still run are stopped, such as "1h"; "" waits for
	// as long as they run.
	DrainDeadline string `json:"drain_deadline,omitempty"`
	// AllowNoRollback lets a node continue if its present packages cannot be downloaded for a rollback.
	AllowNoRollback bool `json:"allow_no_rollback,omitempty"`
}

// Apply is how to load another driver.
type Apply string

// The ways, the gentle one first.
const (
	Nothing Apply = "nothing"
	Reload  Apply = "reload"
	Reboot  Apply = "reboot"
)

// Pin is a package in one version; "" is the newest.
type Pin struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

func (p Pin) String() string {
	if p.Version == "" {
		return p.Name
	}
	return p.Name + "=" + p.Version
}

// Plan is a planned change of a host.
type Plan struct {
	Vendor  gpu.Vendor `json:"vendor"`
	Version string     `json:"version"`
	Modules Flavour    `json:"modules,omitempty"`
	// Source is who provides the packages.
	Source  string `json:"source,omitempty"`
	Install []Pin  `json:"install,omitempty"`
	// Remove are packages of the driver that must go, such as those of the other kind of
	// module.
	Remove []string `json:"remove,omitempty"`
	// Hold are installed packages of the driver that upgrades would replace.
	Hold  []string `json:"hold,omitempty"`
	Apply Apply    `json:"apply"`
	// Notes are remarks for the operator.
	Notes []string `json:"notes,omitempty"`
}

// Done reports whether the host has the wanted driver; packages may still have to be held.
func (p Plan) Done() bool { return p.Apply == Nothing && len(p.Install) == 0 }

// Refusal is the error of a plan that is not possible, with the reason and what would help.
type Refusal struct {
	Reason string `json:"reason"`
	Fix    string `json:"fix,omitempty"`
	// Sources is set if other package sources, or newer package lists, may help.
	Sources bool `json:"-"`
}

func (r *Refusal) Error() string {
	text := r.Reason + "; nothing was changed"
	if r.Fix != "" {
		text += ": " + r.Fix
	}
	return text
}

func refuse(fix, format string, values ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, values...), Fix: fix}
}

// Make plans how a host gets the wanted driver. It refuses if it is not certain of the result.
func Make(f Facts, w Want) (Plan, *Refusal) {
	if r := untouchable(f); r != nil {
		return Plan{}, r
	}
	m, r := choose(f, w)
	if r != nil {
		return Plan{}, r
	}
	if r := checkInstalled(f, m); r != nil {
		return Plan{}, r
	}
	need, why := Intersect(Needs(f, m.Vendor))
	if why != "" {
		return Plan{}, refuse("", "%s", why)
	}
	have := f.Drivers[m.Vendor]
	p := Plan{Vendor: m.Vendor, Version: w.Version, Modules: w.Modules, Apply: Nothing}
	if w.Version == "" && have.Loaded != "" && have.Loaded == have.OnDisk && need.allows(have.Loaded,
		have.Modules) == "" {
		p.Version = have.Loaded // keep a driver that works
		p.Notes = append(p.Notes, "the loaded driver supports the GPUs and is kept")
	}
	if p.Version != "" {
		if why := need.allows(p.Version, w.Modules); why != "" {
			return p, refuse("want another version", "%s", why)
		}
	}
	if r := supported(f, m, p); r != nil {
		return p, r
	}
	if has(f, m, p) {
		p.Hold = unheld(f, m.Vendor)
		if p.Modules == "" {
			p.Modules = have.Modules
		}
		return p, nil
	}
	return p.fill(f, m, need)
}

// has reports whether the wanted driver is loaded, on disk and in the library.
func has(f Facts, m Maker, p Plan) bool {
	d := f.Drivers[m.Vendor]
	return p.Version != "" && d.Loaded == p.Version && (d.OnDisk == p.Version || d.OnDisk == "") &&
		(m.Library == "" || d.Library == p.Version) &&
		(p.Modules == "" || d.Modules == "" || p.Modules == d.Modules)
}

// choose returns the Maker of the wanted driver.
func choose(f Facts, w Want) (Maker, *Refusal) {
	vendors := f.vendors()
	switch {
	case len(vendors) == 0:
		return Maker{}, refuse("", "this host has no GPU")
	case w.Vendor == "" && len(vendors) > 1:
		return Maker{}, refuse("name its vendor",
			"this host has GPUs of several vendors (%s), and the request names none", join(vendors))
	case w.Vendor == "":
		w.Vendor = vendors[0]
	case !slices.Contains(vendors, w.Vendor):
		return Maker{}, refuse("", "this host has no GPU of %q", w.Vendor)
	}
	m, _ := MakerOf(w.Vendor)
	return m, nil
}

func join(vendors []gpu.Vendor) string {
	var names []string
	for _, v := range vendors {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}

// untouchable refuses hosts whose driver this program never changes.
func untouchable(f Facts) *Refusal {
	switch {
	case f.Container != "":
		return refuse("run this on the host", "this is a container (%s), and its kernel is the host's", f.Container)
	case f.Hypervisor != "":
		return refuse("change its driver manually",
			"this host runs %s, whose kernel packages conflict with those of GPU drivers", f.Hypervisor)
	}
	for _, p := range f.Holders {
		if p.Display {
			return refuse("stop the display server, or leave this host out", "%s uses a GPU for a display", p)
		}
	}
	return nil
}

// checkInstalled refuses drivers that were not installed from packages, and broken packages.
func checkInstalled(f Facts, m Maker) *Refusal {
	if by := f.Drivers[m.Vendor].Foreign; by != "" {
		return refuse("change it in the same way", "%s's driver was installed by %s and not from packages",
			m.name(), by)
	}
	for _, p := range f.Packages {
		if p.Broken != "" {
			return refuse("dpkg --configure -a", "package %s is %s", p.Name, p.Broken)
		}
	}
	names := map[string]bool{}
	for _, p := range f.DriverPackages(m.Vendor) {
		if names[p.Name] {
			return refuse("remove it for the foreign architecture",
				"package %s is installed for several architectures", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// supported refuses distributions on which this program cannot install packages.
func supported(f Facts, m Maker, p Plan) *Refusal {
	switch {
	case f.Distribution.ID == "debian", f.Distribution.ID == "ubuntu":
		return nil
	case f.Distribution.is("rhel"), f.Distribution.is("fedora"):
		return refuse("run these commands yourself: "+m.ByHand(f.Distribution, p.Version),
			"%s uses dnf, with which this program cannot install packages", f.Distribution)
	}
	return refuse("change its driver manually", "%q is neither Debian nor Ubuntu", f.Distribution)
}

// fill chooses the packages and how to load the driver.
func (p Plan) fill(f Facts, m Maker, need Requirement) (Plan, *Refusal) {
	versions := []string{p.Version}
	if p.Version == "" {
		versions = offered(f, m, need)
	}
	if len(versions) == 0 {
		return p, unoffered(f, m, p.Version,
			fmt.Sprintf("the host's package sources offer no driver that fits (%s)", need))
	}
	// If several versions are possible, an older one with prebuilt modules is better than a newer one
	// whose modules must be compiled.
	compiled := []bool{false, true}
	if p.Version != "" {
		compiled = []bool{true}
	}
	var closest lack
	for _, dkms := range compiled {
		for _, version := range versions {
			if p.choose(f, m, need, version, dkms, &closest) {
				return p.with(f, m), nil
			}
		}
	}
	if closest.version == "" {
		return p, refuse("choose the other kind", "version %s has no %s kernel modules that support the GPUs (%s)",
			versions[0], p.Modules, need)
	}
	reason := fmt.Sprintf("version %s cannot be installed (%s: missing %s)", closest.version, closest.source,
		strings.Join(closest.missing, ", "))
	if f.SecureBoot {
		reason += "; with Secure Boot, modules that are compiled on the host would not load"
	}
	return p, unoffered(f, m, closest.version, reason)
}

// lack is a set of packages with the fewest missing packages.
type lack struct {
	version, source string
	missing         []string
}

// choose takes the first set of packages that is offered completely. If there is none, it records
// the one with the fewest missing packages in closest.
func (p *Plan) choose(f Facts, m Maker, need Requirement, version string, dkms bool, closest *lack) bool {
	for _, kind := range kinds(f, m, need, version, p.Modules) {
		for _, s := range m.Sets(f, version, kind) {
			if s.DKMS && !dkms {
				continue
			}
			s.Packages = slices.Concat(s.Packages, m.Extra(f, version, s), headers(f, s))
			pins, missing := pin(f, m, s, version)
			if f.SecureBoot && s.DKMS {
				missing = append(missing, "modules that are signed")
			}
			if len(missing) == 0 {
				p.Version, p.Modules, p.Source, p.Install = version, kind, s.Source, pins
				return true
			}
			if closest.version == "" || len(missing) < len(closest.missing) {
				*closest = lack{version, s.Source, missing}
			}
		}
	}
	return false
}

// kinds returns the kinds of modules to try: those that are wanted and support the GPUs.
func kinds(f Facts, m Maker, need Requirement, version string, want Flavour) []Flavour {
	var out []Flavour
	for _, kind := range m.Flavours(version, f.Drivers[m.Vendor].Modules) {
		if (want == "" || kind == want) && need.allows(version, kind) == "" {
			out = append(out, kind)
		}
	}
	return out
}

// offered lists the versions in the package sources that support the GPUs, newest first.
func offered(f Facts, m Maker, need Requirement) []string {
	var out []string
	for name, versions := range f.Available {
		if !m.Owns(name) {
			continue
		}
		for _, v := range versions {
			up := Upstream(v)
			if m.Longer {
				parts := strings.Split(up, ".")
				up = strings.Join(parts[:min(3, len(parts))], ".")
			}
			if ValidVersion(up) && need.allows(up, "") == "" && (m.Longer || Branch(up) >= 100) {
				out = append(out, up)
			}
		}
	}
	slices.SortFunc(out, func(a, b string) int { return Compare(b, a) })
	return slices.Compact(out)
}

// headers returns the package of the running kernel's headers. A metapackage could install a new kernel.
func headers(f Facts, s Set) []SetPackage {
	name := "linux-headers-" + f.Kernel
	if !s.DKMS || f.installed(name) {
		return nil
	}
	return []SetPackage{{Name: name, Any: true}}
}

// pin finds the packages of a set in a version, and names what is missing.
func pin(f Facts, m Maker, s Set, version string) (pins []Pin, missing []string) {
	for _, p := range s.Packages {
		i := slices.IndexFunc(f.Available[p.Name], func(v string) bool { return p.Any || m.carries(v, version) })
		switch {
		case i >= 0:
			pins = append(pins, Pin{p.Name, f.Available[p.Name][i]})
		case !p.Optional && p.Any:
			missing = append(missing, p.Name)
		case !p.Optional:
			missing = append(missing, p.Name+" "+version)
		}
	}
	return pins, missing
}

// unoffered returns the refusal for missing packages, with the sources that could have them.
func unoffered(f Facts, m Maker, version, reason string) *Refusal {
	var where []string
	for _, s := range m.Sets(f, version, "") {
		if !slices.Contains(where, s.Where) {
			where = append(where, s.Where)
		}
	}
	fix := "add a package source that has it (" + strings.Join(where, "; or ") + ") and run  apt-get update"
	return &Refusal{Reason: reason, Fix: fix, Sources: true}
}

// with adds the other installed packages of the driver, which must have the same version, and
// determines how to load the driver.
func (p Plan) with(f Facts, m Maker) Plan {
	d := f.Drivers[m.Vendor]
	for _, have := range f.DriverPackages(m.Vendor) {
		planned := slices.ContainsFunc(p.Install, func(x Pin) bool { return x.Name == have.Name })
		i := slices.IndexFunc(f.Available[have.Name], func(v string) bool { return m.carries(v, p.Version) })
		switch {
		case planned:
		case m.Other(have.Name, p.Modules):
			p.Remove = append(p.Remove, have.Name)
		case i >= 0:
			p.Install = append(p.Install, Pin{have.Name, f.Available[have.Name][i]})
		}
	}
	// Packages that are already installed only need a hold.
	p.Install = slices.DeleteFunc(p.Install, func(x Pin) bool {
		return slices.ContainsFunc(f.Packages, func(h Package) bool {
			return h.Name == x.Name && h.Version == x.Version && h.Broken == ""
		})
	})
	switch {
	case d.Loaded == p.Version && (p.Modules == "" || d.Modules == "" || d.Modules == p.Modules):
		p.Apply = Nothing
	case reloadable(f, m):
		p.Apply = Reload
	default:
		p.Apply = Reboot
	}
	if d.Loaded == InTree {
		p.Notes = append(p.Notes, "the kernel's own module is loaded; the reboot replaces it")
	}
	return p
}

// reloadable reports whether only processes that the agent can stop use the modules.
func reloadable(f Facts, m Maker) bool {
	if len(m.Unload) == 0 {
		return false
	}
	return !slices.ContainsFunc(f.Holders, func(p Process) bool { return p.Vendor == m.Vendor && !p.Ours })
}

// unheld lists the installed packages of a driver that upgrades would replace.
func unheld(f Facts, v gpu.Vendor) []string {
	var out []string
	for _, p := range f.DriverPackages(v) {
		if !p.Held {
			out = append(out, p.Name)
		}
	}
	return out
}
