package archtest

import (
	"slices"
	"strings"
	"testing"
)

// floors are the module from the ground up. A package imports what lies on lower
// floors and on its own; the longest name that fits says on which it lies.
var floors = []struct {
	what     string
	packages []string
	// apart is set where the families of a floor never import each other.
	apart bool
}{
	{"words", []string{"internal/api", "internal/gpu", "internal/version", "docs"}, true},
	{"decisions", []string{"internal/share", "internal/variant", "internal/dispatch", "internal/scale", "internal/weigh", "internal/meter", "internal/prompt", "internal/learned", "internal/allowance", "internal/pack", "internal/blob", "internal/compiled", "internal/join", "internal/ownership", "internal/profile", "internal/driver", "internal/rightsize"}, true},
	{"the host and the cluster, read", []string{"internal/host", "internal/agent", "internal/mps", "internal/doctor", "internal/top", "internal/plugincmd", "internal/consultoken", "internal/hclfile", "internal/steer", "internal/turn", "internal/cacheapi", "internal/snapshot", "internal/account", "internal/profilekv", "internal/quantile", "internal/query", "internal/objective"}, false},
	{"the parts of programs", []string{"gateway", "router", "autoscaler-plugin", "devices", "drivers", "simulate", "cache", "ui", "profiler", "node"}, true},
	{"programs", []string{"cmd"}, false},
	{"tests, stand-ins and benchmarks", []string{"e2e", "demo", "bench", "internal/reference", "ui/browser", "ui/wirefake"}, false},
}

// floorOf returns the floor of a package and the name by which it lies there, -1
// where it has none.
func floorOf(pkg string) (floor int, name string) {
	floor = -1
	for i, f := range floors {
		for _, p := range f.packages {
			if (pkg == p || strings.HasPrefix(pkg, p+"/")) && len(p) > len(name) {
				floor, name = i, p
			}
		}
	}
	return floor, name
}

// Every package has a floor, so that no rule passes a new package by.
func TestEveryPackageHasAFloor(t *testing.T) {
	g := load(t)
	for pkg, imports := range g {
		floor, name := floorOf(pkg)
		if floor < 0 {
			t.Errorf("%s is on no floor: say in floors_test.go what it may import, and in docs/architecture.md what belongs into it", pkg)
			continue
		}
		for _, imported := range imports {
			own, ok := strings.CutPrefix(imported, module+"/")
			if !ok {
				continue
			}
			other, family := floorOf(own)
			switch {
			case other > floor:
				t.Errorf("%s (%s) -> %s (%s): a package imports lower floors", pkg, floors[floor].what, own, floors[other].what)
			case other == floor && floors[floor].apart && family != name:
				t.Errorf("%s -> %s: %s never import each other; what both need lies on a lower floor", pkg, own, floors[floor].what)
			}
		}
	}
	for _, f := range floors {
		for _, p := range f.packages {
			if g.under(p) == nil {
				t.Errorf("there is no package %s: does it have another name now?", p)
			}
		}
	}
	for _, p := range policies {
		if !slices.Contains(floors[1].packages, "internal/"+p) {
			t.Errorf("internal/%s is a policy and not among the %s", p, floors[1].what)
		}
	}
	if len(policies) != len(floors[1].packages) {
		t.Errorf("%d policies, but %v", len(policies), floors[1].packages)
	}
}

func TestFloorOf(t *testing.T) {
	for pkg, want := range map[string]string{"internal/host/amd": "internal/host", "gateway": "gateway", "gatewayx": "", "internal/new": ""} {
		if _, name := floorOf(pkg); name != want {
			t.Errorf("%s lies by %q, want %q", pkg, name, want)
		}
	}
}
