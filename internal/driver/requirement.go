package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Requirement is what one or several GPUs require of the driver.
type Requirement struct {
	// Min is the oldest version that supports the GPU, "" for any.
	Min string `json:"min,omitempty"`
	// Last is the newest branch that does, 0 for no limit.
	Last int `json:"last,omitempty"`
	// Modules is the kind of kernel module that is needed, "" for either.
	Modules Flavour `json:"modules,omitempty"`
	// Never is why no driver that can be installed supports the GPU; "" if one does.
	Never string `json:"never,omitempty"`
	// Of names the generation or the model.
	Of string `json:"of"`
}

func (r Requirement) String() string {
	if r.Never != "" {
		return r.Of + ": " + r.Never
	}
	var parts []string
	if r.Min != "" {
		parts = append(parts, r.Min+" or newer")
	}
	if r.Last != 0 {
		parts = append(parts, fmt.Sprintf("branch %d or older", r.Last))
	}
	if r.Modules != "" {
		parts = append(parts, "the "+string(r.Modules)+" kernel modules")
	}
	if len(parts) == 0 {
		parts = []string{"any current driver"}
	}
	return r.Of + ": " + strings.Join(parts, ", ")
}

// allows returns why a version with a kind of module does not support the GPU, or "" if it does.
func (r Requirement) allows(version string, modules Flavour) string {
	switch {
	case r.Never != "":
		return r.String()
	case r.Min != "" && Compare(version, r.Min) < 0, r.Last != 0 && Branch(version) > r.Last:
		return fmt.Sprintf("version %s does not support it (%s)", version, r)
	case r.Modules != "" && modules != "" && r.Modules != modules:
		return fmt.Sprintf("the %s kernel modules do not support it (%s)", modules, r)
	}
	return ""
}

// Need is the requirement of one GPU.
type Need struct {
	Device      Device      `json:"gpu"`
	Requirement Requirement `json:"requirement"`
}

// Needs returns the requirement of each GPU of a vendor.
func Needs(f Facts, v gpu.Vendor) []Need {
	m, ok := MakerOf(v)
	var out []Need
	for _, d := range f.GPUs {
		if d.Vendor == v && ok {
			out = append(out, Need{d, m.Require(d)})
		}
	}
	return out
}

// Intersect returns the requirement of all GPUs together. If no driver can meet it, the second
// result says which two GPUs conflict, or which GPU has no driver.
func Intersect(needs []Need) (Requirement, string) {
	var all Requirement
	var oldest, last, kind Need // the GPUs that determine Min, Last and Modules
	for _, n := range needs {
		r := n.Requirement
		if r.Never != "" {
			return r, fmt.Sprintf("%s: %s", n.Device, r)
		}
		if r.newer(all) {
			all.Min, oldest = r.Min, n
		}
		if r.older(all) {
			all.Last, last = r.Last, n
		}
		if r.Modules != "" && all.Modules != "" && r.Modules != all.Modules {
			return all, conflict(kind, n)
		}
		if r.Modules != "" {
			all.Modules, kind = r.Modules, n
		}
		if !slices.Contains(strings.Split(all.Of, ", "), r.Of) {
			all.Of = strings.TrimPrefix(all.Of+", "+r.Of, ", ")
		}
	}
	if all.Last != 0 && all.Min != "" && Branch(all.Min) > all.Last {
		return all, conflict(last, oldest)
	}
	return all, ""
}

// newer reports whether a requirement's oldest version is newer than another's.
func (r Requirement) newer(than Requirement) bool {
	return r.Min != "" && (than.Min == "" || Compare(r.Min, than.Min) > 0)
}

// older reports whether a requirement's last branch is older than another's.
func (r Requirement) older(than Requirement) bool {
	return r.Last != 0 && (than.Last == 0 || r.Last < than.Last)
}

func conflict(a, b Need) string {
	return fmt.Sprintf("no driver supports both %s (%s) and %s (%s)", a.Device, a.Requirement, b.Device, b.Requirement)
}
