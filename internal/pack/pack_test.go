package pack

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

var anyAsk = rapid.Custom(func(t *rapid.T) Ask {
	a := Ask{CPU: rapid.IntRange(0, 32000).Draw(t, "cpu"), MemoryMiB: rapid.IntRange(0, 65536).Draw(t, "memory")}
	if rapid.IntRange(0, 5).Draw(t, "has a GPU") > 0 {
		a.Instances, a.Requests = rapid.IntRange(1, 20).Draw(t, "instances"), 1
		if rapid.IntRange(0, 9).Draw(t, "several") == 0 {
			a.Instances, a.Requests = 20, rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "requests")
		}
		a.Of = rapid.SampledFrom([]int{0, 0, 1, 20}).Draw(t, "of")
	}
	return a
})

var anyDemand = rapid.Custom(func(t *rapid.T) Demand {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Typical {
		return Typical{anyAsk.Draw(t, "ask"), rapid.Float64Range(0, 100).Draw(t, "weight")}
	}), 0, 30).Draw(t, "demand")
})

var anyNode = rapid.Custom(func(t *rapid.T) Node {
	n := Node{CPU: rapid.IntRange(0, 128000).Draw(t, "cpu"), MemoryMiB: rapid.IntRange(0, 1<<20).Draw(t, "memory")}
	for range rapid.IntRange(0, 8).Draw(t, "GPUs") {
		n.Groups = append(n.Groups, Group{Free: rapid.IntRange(0, 20).Draw(t, "free"), Total: 20, Unit: 1.0 / 20})
	}
	if rapid.IntRange(0, 3).Draw(t, "has whole GPUs") == 0 {
		n.Groups = append(n.Groups, Group{Free: rapid.IntRange(0, 8).Draw(t, "whole"), Total: 8, Unit: 1})
	}
	return n
})

const rounding = 1e-6

// Waste is at most the free capacity, so a full node has none.
func TestWasteIsPartOfWhatIsFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, n := anyDemand.Draw(t, "demand"), anyNode.Draw(t, "node")
		if w := d.Waste(n); w < 0 || w > n.Free()+rounding || math.IsNaN(w) {
			t.Fatalf("waste %v of %v free", w, n.Free())
		}
	})
}

// FirstFit serves exactly the tasks that fit, from groups with room.
func TestFirstFitServesWhatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, a := anyNode.Draw(t, "node"), anyAsk.Draw(t, "ask")
		served := n.FirstFit(a)
		if a.Fits(n) != (a.FitsHost(n) && (a.Instances == 0 || served != nil)) {
			t.Fatalf("fits: %v, served by %v", a.Fits(n), served)
		}
		if !a.Fits(n) {
			return
		}
		after := n.After(a, served)
		for _, g := range after.Groups {
			if g.Free < 0 {
				t.Fatalf("%+v has less than nothing free", g)
			}
		}
		if a.Instances > 0 && len(served) != a.Requests {
			t.Fatalf("%d groups serve %d requests", len(served), a.Requests)
		}
	})
}

// A task that takes capacity which no other task could use lowers the waste by that much.
func TestGrowthIsNegativeWhereWasteIsUsed(t *testing.T) {
	d := Demand{{Ask{CPU: 1000, Instances: 10, Requests: 1}, 1}}
	n := Node{CPU: 4000, Groups: []Group{{Free: 4, Total: 20, Unit: 0.05}}}
	if w := d.Waste(n); math.Abs(w-0.2) > rounding {
		t.Errorf("waste %v, want the 0.2 GPUs that no typical task can use", w)
	}
	if g, ok := d.Growth(n, Ask{Instances: 4, Requests: 1}); !ok || math.Abs(g+0.2) > rounding {
		t.Errorf("growth %v, %v, want -0.2", g, ok)
	}
	if _, ok := d.Growth(n, Ask{Instances: 5, Requests: 1}); ok {
		t.Error("a task that does not fit has a growth")
	}
}

func TestLevelsAndRoomsAreInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(-9, 9).Draw(t, "a"), rapid.Float64Range(-9, 9).Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		for _, f := range []struct {
			of  func(float64) int
			end int
		}{{Level, Levels}, {Room, Rooms}} {
			if x, y := f.of(a), f.of(b); x > y || x < 0 || y >= f.end {
				t.Fatalf("%v is %d, %v is %d of %d", a, x, b, y, f.end)
			}
		}
	})
	if Level(0) == 0 || Level(0) == Levels-1 {
		t.Errorf("level %d of no growth leaves no room on one side", Level(0))
	}
}

// Every kind of task of the demand has a class of its size and CPU, and names are unique.
func TestClassesCoverTheDemand(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9_]+$`) // HCL accepts it in "${attr.…}"
	rapid.Check(t, func(t *rapid.T) {
		d := anyDemand.Draw(t, "demand")
		classes := d.Classes()
		seen := map[string]bool{}
		for _, c := range classes {
			if seen[c.Name] || !name.MatchString(c.Name) {
				t.Fatalf("class %q is there twice or has a bad name", c.Name)
			}
			seen[c.Name] = true
		}
		if len(classes) > MaxClasses {
			t.Fatalf("%d classes", len(classes))
		}
		for _, typical := range d {
			c, ok := ClassOf(classes, typical.Ask)
			if typical.Weight > 0 && len(classes) < MaxClasses-1 && (!ok || c.Typical.size() != typical.size()) {
				t.Fatalf("class of %+v is %+v, %v", typical.Ask, c, ok)
			}
		}
		if again := d.Classes(); !slices.Equal(again, classes) {
			t.Fatal("two calls, two answers")
		}
	})
}

// A size that the demand does not have uses the class of the next larger size.
func TestClassOfAnUnknownSize(t *testing.T) {
	classes := Demand{{Ask{Instances: 5, Requests: 1}, 1}, {Ask{Instances: 10, Requests: 1}, 1}, {Ask{Instances: 20, Requests: 4}, 1}}.Classes()
	for instances, want := range map[int]string{1: "5", 5: "5", 6: "10", 10: "10", 17: "10"} {
		if c, ok := ClassOf(classes, Ask{Instances: instances, Requests: 1}); !ok || c.Name != want {
			t.Errorf("%d slices go by class %q, want %q", instances, c.Name, want)
		}
	}
	if c, _ := ClassOf(classes, Ask{Instances: 20, Requests: 3}); c.Name != "20x4" {
		t.Errorf("three GPUs go by class %q", c.Name)
	}
	if _, ok := ClassOf(classes, Ask{CPU: 100}); ok {
		t.Error("a task without a GPU has a class of one with")
	}
}

// A request for four whole GPUs is not one for four slices. It fits only nodes with whole
// GPUs, and has its own class.
func TestWholeGPUsAreNoSlices(t *testing.T) {
	slices, four := Ask{Instances: 4, Requests: 1, Of: 20}, Ask{Instances: 4, Requests: 1, Of: 1}
	shared := Node{Groups: []Group{{Free: 20, Total: 20, Unit: 0.05}}}
	whole := Node{Groups: []Group{{Free: 8, Total: 8, Unit: 1}}}
	for _, c := range []struct {
		ask  Ask
		node Node
		want bool
	}{{slices, shared, true}, {slices, whole, false}, {four, whole, true}, {four, shared, false}, {Ask{Instances: 4, Requests: 1}, shared, true}, {Ask{Instances: 4, Requests: 1}, whole, true}} {
		if got := c.ask.Fits(c.node); got != c.want || (c.node.FirstFit(c.ask) != nil) != c.want {
			t.Errorf("%+v fits %+v: %v", c.ask, c.node, got)
		}
	}
	classes := Demand{{slices, 1}, {four, 1}}.Classes()
	for ask, want := range map[Ask]string{slices: "4of20", four: "4of1", {Instances: 3, Requests: 1, Of: 1}: "4of1"} {
		if c, ok := ClassOf(classes, ask); !ok || c.Name != want {
			t.Errorf("%+v goes by class %q, want %s", ask, c.Name, want)
		}
	}
}

func TestAttributesAreLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, n := anyDemand.Draw(t, "demand"), anyNode.Draw(t, "node")
		classes := d.Classes()
		attributes := d.Attributes(classes, n)
		if len(attributes) != len(classes)+1 {
			t.Fatalf("%d attributes of %d classes", len(attributes), len(classes))
		}
		for name, value := range attributes {
			if v, err := strconv.Atoi(value); err != nil || v < 0 || v >= max(Levels, Rooms) {
				t.Fatalf("%s = %s", name, value)
			}
		}
	})
}

// The order holds only if each target scores lower than the one before by more than all
// other scores together can make up. Nomad refuses targets that sum to more than 100%.
func TestTargetsKeepTheOrder(t *testing.T) {
	sum := 0
	for i, p := range targets {
		sum += p
		score := func(p int) float64 { return 1 - 100/float64(p) }
		// Fit is in 0 to 1, affinities of nodes and of devices are in -1 to 1.
		if i > 0 && score(targets[i-1])-score(p) < 1.9 {
			t.Errorf("targets %d and %d score %.2f and %.2f", targets[i-1], p, score(targets[i-1]), score(p))
		}
	}
	if sum > 100 {
		t.Errorf("targets sum to %d%%", sum)
	}
	if Rooms > Levels {
		t.Errorf("%d rooms have %d targets", Rooms, Levels)
	}
}

func TestEachPolicySteersAsItSays(t *testing.T) {
	c := Class{Name: "5", Typical: Ask{Instances: 5, Requests: 1}}
	first := func(p Policy) string { return Steer(p, c).SpreadAttribute + "=" + Steer(p, c).Targets[0].Value }
	for p, want := range map[Policy]string{
		Fragmentation: "${attr.unique.aliquot.waste_5}=0", BestFit: "${attr.unique.aliquot.room}=0", Spread: "${attr.unique.aliquot.room}=9",
	} {
		if got := first(p); got != want {
			t.Errorf("%s wants %s first, want %s", p, got, want)
		}
	}
	if s := Steer(None, c); s.SpreadAttribute != "" || s.Affinities != nil || s.Devices != nil {
		t.Errorf("none adds %+v", s)
	}
	for _, p := range Policies() {
		if got, err := ParsePolicy(string(p)); err != nil || got != p {
			t.Errorf("%s reads as %s, %v", p, got, err)
		}
	}
	if _, err := ParsePolicy("tetris"); err == nil {
		t.Error("ParsePolicy accepted the unknown policy tetris")
	}
}
