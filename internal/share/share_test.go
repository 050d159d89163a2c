package share

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

func found(index int, class string) Found {
	return Found{
		GPU: gpu.GPU{ID: gpu.ID(fmt.Sprintf("GPU-%d", index)), Vendor: gpu.NVIDIA, Index: index, Class: class, Model: "NVIDIA " + strings.ToUpper(class),
			Memory: 81000, Units: 132, PCI: fmt.Sprintf("0000:%02x:00.0", index+1)},
		Slicing: Slicing{Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, Memory: gpu.LevelCooperative, Max: 48, Why: "MPS serves at most 48 clients"},
	}
}

func any20() []Rule { return []Rule{{Selector: Any, Mode: Shared, Slices: 20}} }

// TestDisjointSlicesNeverExceedTheGPU: however a GPU's slices are dealt out, all
// grants together take at most the whole of it, and none takes nothing.
func TestDisjointSlicesNeverExceedTheGPU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := found(0, "h100")
		f.Memory = gpu.MiB(rapid.IntRange(1000, 300000).Draw(t, "memory"))
		f.Units = rapid.IntRange(100, 304).Draw(t, "units")
		f.Slicing.Max = 0
		n := rapid.IntRange(1, gpu.MaxSlices).Draw(t, "slices")
		plan := NewPlan([]Found{f}, []Rule{{Selector: Any, Mode: Shared, Slices: n}})
		left := rapid.Permutation(plan.Offers[0].Instances()).Draw(t, "instances")
		var percent, units int
		var memory gpu.MiB
		var weight float64
		for len(left) > 0 {
			k := rapid.IntRange(1, len(left)).Draw(t, "k")
			g, err := plan.Grant(left[:k])
			if err != nil {
				t.Fatal(err)
			}
			left = left[k:]
			p := Percent(g.Grant.Slices, g.Grant.Total)
			if p < 1 || g.Grant.Memory < 1 || g.Grant.Units < 1 || g.Grant.Slices != k {
				t.Fatalf("%d slices: %d%%, %+v", k, p, g.Grant)
			}
			percent, units, memory, weight = percent+p, units+g.Grant.Units, memory+g.Grant.Memory, weight+g.Grant.Weight
		}
		if percent > 100 || units > f.Units || memory > f.Memory || weight > plan.Offers[0].Weight*1.000001 {
			t.Fatalf("together %d%%, %d of %d units, %s of %s, weight %g", percent, units, f.Units, memory, f.Memory, weight)
		}
	})
}

// TestAGrantIsOfOneGroup: any mix of instances is refused unless they are of one
// group, and of one GPU where it is shared.
func TestAGrantIsOfOneGroup(t *testing.T) {
	plan := NewPlan([]Found{found(0, "h100"), found(1, "h100"), found(2, "h100"), found(3, "h100")},
		[]Rule{{Selector: Any, Mode: Whole}, {Selector: "0", Mode: Shared, Slices: 4}, {Selector: "1", Mode: Shared, Slices: 4}})
	var all []string
	group := map[string]string{}
	for _, o := range plan.Offers {
		for _, id := range o.Instances() {
			all = append(all, id)
			group[id] = o.Group
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.SampledFrom(all), 1, 4).Draw(t, "ids")
		one, repeated := true, false
		for i, id := range ids {
			one = one && group[id] == group[ids[0]]
			repeated = repeated || slices.Contains(ids[:i], id)
		}
		g, err := plan.Grant(ids)
		if (err == nil) != (one && !repeated) {
			t.Fatalf("%v: %+v, %v", ids, g.Grant, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("two lines: %v", err)
		}
		if err == nil && g.Grant.Sharing == gpu.SharingMPS && len(g.Grant.GPUs) != 1 {
			t.Fatalf("slices of %v", g.Grant.GPUs)
		}
	})
}

func TestUnequalSlices(t *testing.T) {
	plan := NewPlan([]Found{found(0, "h100")}, any20())
	ids := plan.Offers[0].Instances()
	for _, c := range []struct {
		ids     []string
		percent int
		memory  gpu.MiB
		units   int
	}{{ids[:6], 30, 24300, 39}, {ids[6:16], 50, 40500, 66}} {
		g, err := plan.Grant(c.ids)
		if err != nil || Percent(g.Grant.Slices, g.Grant.Total) != c.percent || g.Grant.Memory != c.memory || g.Grant.Units != c.units {
			t.Errorf("%d slices: %+v, %v", len(c.ids), g.Grant, err)
		}
	}
}

func TestGrantAfterTheSlicesChanged(t *testing.T) {
	plan := NewPlan([]Found{found(0, "h100")}, any20())
	if _, err := plan.Grant([]string{"GPU-0::03of10"}); err == nil || !strings.Contains(err.Error(), "of 10 slices") {
		t.Errorf("%v", err)
	}
	if _, err := plan.Grant([]string{"GPU-9::03of20"}); err == nil || !strings.Contains(err.Error(), "GPU-9") {
		t.Errorf("%v", err)
	}
}

func TestTheClosestRuleWins(t *testing.T) {
	f := found(3, "h100")
	for _, c := range []struct {
		selectors []string
		want      string
	}{
		{[]string{"*", "h100", "NVIDIA h100", "3", "GPU-3"}, "GPU-3"},
		{[]string{"*", "h100", "nvidia-h100", "3"}, "3"},
		{[]string{"*", "H100", "0000:04:00.0"}, "0000:04:00.0"},
		{[]string{"*", "h100", "nvidia h100"}, "nvidia h100"},
		{[]string{"*", "h100", "4", "GPU-4"}, "h100"},
		{[]string{"*", "t4"}, "*"},
		{[]string{"t4"}, ""},
	} {
		var rules []Rule
		for _, s := range c.selectors {
			rules = append(rules, Rule{Selector: s})
		}
		if got, ok := Pick(rules, f.GPU); got.Selector != c.want || ok != (c.want != "") {
			t.Errorf("%v: %q, want %q", c.selectors, got.Selector, c.want)
		}
	}
}

func TestClampIsTold(t *testing.T) {
	plan := NewPlan([]Found{found(0, "h100")}, []Rule{{Selector: Any, Mode: Shared, Slices: 100}})
	o := plan.Offers[0]
	if o.Slices != 48 || !strings.Contains(o.Clamp, "48 slices instead of 100") || len(plan.Notes) != 1 {
		t.Errorf("%+v, notes %v", o, plan.Notes)
	}
}

func TestWhatIsNotOfferedIsExplained(t *testing.T) {
	old := found(0, "k40")
	old.Slicing = Slicing{Why: "MPS needs compute capability 3.5"}
	split := found(1, "a100")
	split.Split = true
	plain := found(2, "t4")
	for _, c := range []struct {
		found Found
		rules []Rule
		want  string
	}{
		{old, any20(), "compute capability 3.5"},
		{split, any20(), "has no partitions"},
		{plain, []Rule{{Selector: Any, Mode: MIG}}, "not partitioned"},
		{plain, []Rule{{Selector: "h100", Mode: Whole}}, "no gpu block matches"},
	} {
		plan := NewPlan([]Found{c.found}, c.rules)
		if len(plan.Offers) != 0 || !slices.ContainsFunc(plan.Notes, func(n Note) bool { return strings.Contains(n.Text, c.want) }) {
			t.Errorf("%s by %v: %+v", c.found.ID, c.rules, plan)
		}
	}
}

func TestPartitionsAreOffered(t *testing.T) {
	parent := found(0, "a100-40gb")
	parent.Split = true
	child := func(n int, profile string, fraction float64) Found {
		f := found(0, "a100-40gb")
		f.ID, f.Parent, f.Profile, f.Fraction = gpu.ID(fmt.Sprintf("MIG-%d", n)), parent.ID, profile, fraction
		f.Slicing = Slicing{}
		f.Part = Part{Sharing: gpu.SharingMIG, Enforcement: gpu.EnforceMIG, Infix: "mig-"}
		return f
	}
	all := []Found{parent, child(1, "3g.20gb", 0.4), child(2, "1g.5gb", 0.1), child(3, "1g.5gb", 0.1)}
	plan := NewPlan(all, []Rule{{Selector: Any, Mode: MIG}, {Selector: "MIG-3", Mode: Off}})
	var got []string
	for _, o := range plan.Offers {
		got = append(got, o.Group)
	}
	if !slices.Equal(got, []string{"a100-40gb-mig-3g.20gb", "a100-40gb-mig-1g.5gb"}) || plan.Offers[0].Weight <= plan.Offers[1].Weight {
		t.Errorf("%+v", plan)
	}
	// Two MIG devices of one profile are one grant.
	plan = NewPlan(all, []Rule{{Selector: Any, Mode: MIG}})
	g, err := plan.Grant([]string{"MIG-3", "MIG-2"})
	if err != nil || len(g.Grant.GPUs) != 2 || g.Grant.Enforcement != gpu.EnforceMIG {
		t.Errorf("%+v, %v", g.Grant, err)
	}
}

func TestOneIndexIsOneGroup(t *testing.T) {
	a, b := found(0, "h100"), found(0, "h100")
	b.ID = "GPU-other"
	plan := NewPlan([]Found{a, b}, any20())
	if len(plan.Offers) != 1 || len(plan.Notes) != 1 {
		t.Errorf("%+v", plan)
	}
}

// A GPU that is not in the table is offered with an estimate that is called one, and
// that is said once for a model, however many there are.
func TestAnEstimatedWeightIsTold(t *testing.T) {
	a, b := found(0, "gb400"), found(1, "gb400")
	a.Target, b.Target = "10.7", "10.7"
	plan := NewPlan([]Found{a, b, found(2, "h100")}, any20())
	if len(plan.Offers) != 3 || len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0].Text, "estimate") {
		t.Fatalf("%+v", plan)
	}
	for i, want := range []WeightSource{WeightEstimate, WeightEstimate, WeightTable} {
		if o := plan.Offers[i]; o.Source != want || o.Weight <= 0 {
			t.Errorf("%s: weight %v from %s, want %s", o.Group, o.Weight, o.Source, want)
		}
	}
	own := NewPlan([]Found{a}, []Rule{{Selector: Any, Mode: Whole, Weight: 5}})
	if o := own.Offers[0]; o.Weight != 5 || o.Source != WeightConfigured || len(own.Notes) != 0 {
		t.Errorf("with the operator's word: %+v, notes %v", o, own.Notes)
	}
}
