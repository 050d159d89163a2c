package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Want is the driver that the nodes of a class shall have.
type Want struct {
	// Version is the maker's own, whole, such as 580.126.09; "" for the newest that is
	// offered, which only a plan for reading may ask for.
	Version string `json:"version"`
	// Vendor is needed for hosts with GPUs of several makers.
	Vendor gpu.Vendor `json:"vendor,omitempty"`
	// Modules chooses the kind of kernel module; "" keeps what is there.
	Modules Flavour `json:"modules,omitempty"`
	// Canary names the nodes that go first; without them the first one to come is alone.
	Canary []string `json:"canary,omitempty"`
	// DrainDeadline is after how long tasks that have not moved are stopped, such as
	// "1h"; "" waits for as long as they run.
	DrainDeadline string `json:"drain_deadline,omitempty"`
	// AllowNoRollback lets a node go on whose present packages are nowhere to be had.
	AllowNoRollback bool `json:"allow_no_rollback,omitempty"`
}

// Apply is how another driver gets into the running kernel.
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

// Plan is what would be done to a host.
type Plan struct {
	Vendor  gpu.Vendor `json:"vendor"`
	Version string     `json:"version"`
	Modules Flavour    `json:"modules,omitempty"`
	// Source says whose packages they are.
	Source  string `json:"source,omitempty"`
	Install []Pin  `json:"install,omitempty"`
	// Remove are packages of the driver that must go, such as those of the other kind of
	// module.
	Remove []string `json:"remove,omitempty"`
	// Hold are installed packages of the driver that upgrades would replace.
	Hold  []string `json:"hold,omitempty"`
	Apply Apply    `json:"apply"`
	// Notes are what a reader should know.
	Notes []string `json:"notes,omitempty"`
}

// Done reports whether the host has what is wanted, but perhaps for holds.
func (p Plan) Done() bool { return p.Apply == Nothing && len(p.Install) == 0 }

// Refusal says why nothing is done, and what would help.
type Refusal struct {
	Reason string `json:"reason"`
	Fix    string `json:"fix,omitempty"`
	// Sources tells that other package sources, or newer lists of theirs, may help.
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

// Make plans what brings a host to what is wanted. It refuses when it is not sure.
func Make(f Facts, w Want) (Plan, *Refusal) {
	if r := untouchable(f); r != nil {
		return Plan{}, r
	}
	m, r := choose(f, w)
	if r != nil {
		return Plan{}, r
	}
	if r := brought(f, m); r != nil {
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
		p.Version = have.Loaded // what works is left alone
		p.Notes = append(p.Notes, "the driver that is loaded drives the GPUs, and is left alone")
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

// choose finds the maker that a want is about.
func choose(f Facts, w Want) (Maker, *Refusal) {
	vendors := f.vendors()
	switch {
	case len(vendors) == 0:
		return Maker{}, refuse("", "this host has no GPU")
	case w.Vendor == "" && len(vendors) > 1:
		return Maker{}, refuse("name its vendor",
			"this host has GPUs of several makers (%s), and it is not said whose driver is wanted", join(vendors))
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

// untouchable looks for hosts whose driver is never touched, whatever is wanted.
func untouchable(f Facts) *Refusal {
	switch {
	case f.Container != "":
		return refuse("run this on the host", "this is a container (%s), and its kernel is the host's", f.Container)
	case f.Hypervisor != "":
		return refuse("change its driver by hand",
			"this host runs %s, whose kernel packages conflict with those of GPU drivers", f.Hypervisor)
	}
	for _, p := range f.Holders {
		if p.Display {
			return refuse("end the display server, or leave this host out", "a screen is drawn by %s", p)
		}
	}
	return nil
}

// brought looks for a driver that no package brought, and for packages that are in
// pieces.
func brought(f Facts, m Maker) *Refusal {
	if by := f.Drivers[m.Vendor].Foreign; by != "" {
		return refuse("whoever brought it should change it", "%s's driver was brought by %s and not by packages",
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
			return refuse("remove it for the foreign one", "package %s is installed for several architectures", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// supported looks at the distribution.
func supported(f Facts, m Maker, p Plan) *Refusal {
	switch {
	case f.Distribution.ID == "debian", f.Distribution.ID == "ubuntu":
		return nil
	case f.Distribution.is("rhel"), f.Distribution.is("fedora"):
		return refuse("by hand: "+m.ByHand(f.Distribution, p.Version),
			"%s has packages by dnf, which this program plans and does not install", f.Distribution)
	}
	return refuse("change its driver by hand", "%q is neither Debian nor Ubuntu", f.Distribution)
}

// fill chooses packages and how they come into force.
func (p Plan) fill(f Facts, m Maker, need Requirement) (Plan, *Refusal) {
	versions := []string{p.Version}
	if p.Version == "" {
		versions = offered(f, m, need)
	}
	if len(versions) == 0 {
		return p, unoffered(f, m, p.Version,
			fmt.Sprintf("the host's package sources offer no driver that fits (%s)", need))
	}
	// Of versions to choose from, an older one with modules that are ready is better than
	// a newer one that must be compiled.
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
		return p, refuse("want the other kind", "version %s has no %s kernel modules that drive the GPUs (%s)",
			versions[0], p.Modules, need)
	}
	reason := fmt.Sprintf("version %s cannot be installed (%s: there is no %s)", closest.version, closest.source,
		strings.Join(closest.missing, ", "))
	if f.SecureBoot {
		reason += "; as Secure Boot is on, modules that are compiled here would not load"
	}
	return p, unoffered(f, m, closest.version, reason)
}

// lack is the set of packages that comes closest to what can be installed.
type lack struct {
	version, source string
	missing         []string
}

// choose takes the first set of packages that is offered whole. Where there is none it
// notes the one that lacks least.
func (p *Plan) choose(f Facts, m Maker, need Requirement, version string, dkms bool, closest *lack) bool {
	for _, kind := range kinds(f, m, need, version, p.Modules) {
		for _, s := range m.Sets(f, version, kind) {
			if s.DKMS && !dkms {
				continue
			}
			s.Wishes = slices.Concat(s.Wishes, m.Extra(f, version, s), headers(f, s))
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

// kinds are the kinds of modules to try, of those that drive the GPUs.
func kinds(f Facts, m Maker, need Requirement, version string, want Flavour) []Flavour {
	var out []Flavour
	for _, kind := range m.Flavours(version, f.Drivers[m.Vendor].Modules) {
		if (want == "" || kind == want) && need.allows(version, kind) == "" {
			out = append(out, kind)
		}
	}
	return out
}

// offered lists the versions that the package sources have and that drive the GPUs,
// newest first.
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

// headers are those of the running kernel, by its name: a metapackage would bring a new
// kernel.
func headers(f Facts, s Set) []Wish {
	name := "linux-headers-" + f.Kernel
	if !s.DKMS || f.installed(name) {
		return nil
	}
	return []Wish{{Name: name, Any: true}}
}

// pin finds the packages of a set in a version, and names what is missing.
func pin(f Facts, m Maker, s Set, version string) (pins []Pin, missing []string) {
	for _, w := range s.Wishes {
		i := slices.IndexFunc(f.Available[w.Name], func(v string) bool { return w.Any || m.carries(v, version) })
		switch {
		case i >= 0:
			pins = append(pins, Pin{w.Name, f.Available[w.Name][i]})
		case !w.Optional && w.Any:
			missing = append(missing, w.Name)
		case !w.Optional:
			missing = append(missing, w.Name+" "+version)
		}
	}
	return pins, missing
}

// unoffered refuses for want of packages, and says where they could come from.
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

// with adds the other installed packages of the driver, which must change along, and says
// how all come into force.
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
	// Those in place already need no more than a hold.
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
		p.Notes = append(p.Notes, "the module that came with the kernel is loaded, and is replaced at the reboot")
	}
	return p
}

// reloadable reports whether all that uses the modules is known: the modules themselves
// and what the agent can stop.
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
