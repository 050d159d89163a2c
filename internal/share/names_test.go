package share

import (
	"slices"
	"testing"

	"aliquot.example/internal/gpu"
)

func TestAGPUIsNamedByAnyFormOfItsAddress(t *testing.T) {
	g := found(0x52, "h100").GPU // 0000:53:00.0
	for _, selector := range []string{"0000:53:00.0", "00000000:53:00.0", "0000:53:00.0 ", "53:00.0"} {
		if got := specificity(selector, g); got != 5 {
			t.Errorf("%q has rank %d", selector, got)
		}
	}
	for _, selector := range []string{"0001:53:00.0", "0000:53:00.1", "53", "53:00", "0000:53:00.0x", "zz:53:00.0"} {
		if got := specificity(selector, g); got != 0 {
			t.Errorf("%q has rank %d", selector, got)
		}
	}
}

// The order in which docs/configuration.md says that blocks count.
func TestTheClosestNameCounts(t *testing.T) {
	g := found(1, "h100").GPU
	closest := []string{string(g.ID), "0000:02:00.0", "1", "NVIDIA h100", "h100", Any}
	for i := range closest {
		var rules []Rule
		for _, s := range closest[i:] {
			rules = append([]Rule{{Selector: s}}, rules...)
		}
		if r, ok := Pick(rules, g); !ok || r.Selector != closest[i] {
			t.Errorf("of %q %q counts", closest[i:], r.Selector)
		}
	}
}

func TestTwoSpellingsOfOneSelector(t *testing.T) {
	for _, same := range [][2]string{{"H100", "h100"}, {"0000:53:00.0", "00000000:53:00.0"}, {"NVIDIA H100 PCIe", "nvidia-h100-pcie"}, {"*", " *"}} {
		if !SameSelector(same[0], same[1]) {
			t.Errorf("%q and %q name the same GPUs", same[0], same[1])
		}
	}
	for _, other := range [][2]string{{"h100", "h200"}, {"0", "1"}, {"0000:53:00.0", "0000:54:00.0"}, {"*", "?"}} {
		if SameSelector(other[0], other[1]) {
			t.Errorf("%q and %q name other GPUs", other[0], other[1])
		}
	}
}

func TestWholeGPUsAreGroupedByMemory(t *testing.T) {
	var all []Found
	for i, memory := range []gpu.MiB{81079, 81559, 97871, 81079, 97800} {
		f := found(i, "h100")
		f.Memory = memory
		all = append(all, f)
	}
	var groups []string
	for _, o := range NewPlan(all, []Rule{{Selector: Any, Mode: Whole}}).Offers {
		groups = append(groups, o.Group)
		if o.Enforcement.Level() != gpu.LevelHard || o.MemoryEnforcement != gpu.LevelHard {
			t.Errorf("a whole GPU is held %s, its memory %s: nobody else is there", o.Enforcement.Level(), o.MemoryEnforcement)
		}
	}
	if want := []string{"h100", "h100", "h100-96g", "h100", "h100-96g"}; !slices.Equal(groups, want) {
		t.Errorf("groups %q, want %q", groups, want)
	}
}

func TestMemoryInCommonIsNotHeld(t *testing.T) {
	parent := found(0, "h200")
	parent.Split = true
	all := []Found{parent}
	for _, id := range []gpu.ID{"MIG-1", "MIG-2"} {
		f := parent
		f.Split, f.ID, f.Parent, f.Profile, f.Memory = false, id, parent.ID, "1c.2g.40gb", 20000
		f.Part = Part{Sharing: gpu.SharingMIG, Enforcement: gpu.EnforceMIG, Infix: "mig-", Common: 40000}
		all = append(all, f)
	}
	plan := NewPlan(all, []Rule{{Selector: Any, Mode: MIG}})
	if len(plan.Notes) != 2 {
		t.Errorf("notes %q, want one for each", plan.Notes)
	}
	for _, o := range plan.Offers {
		g, err := plan.Grant(o.Instances())
		if err != nil || g.Grant.Enforcement.Level() != gpu.LevelHard || g.Grant.MemoryEnforcement != gpu.LevelNone || g.Grant.Memory != 20000 || o.Common != 40000 {
			t.Errorf("%+v, %v", g.Grant, err)
		}
	}
}
