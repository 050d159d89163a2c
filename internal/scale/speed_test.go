package scale

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawFast draws classes of which at least the fastest has speed 1.
func drawFast(t *rapid.T, most int) []Class {
	classes := drawClasses(t, most)
	for c := range classes {
		classes[c].Speed = float64(rapid.IntRange(10, 100).Draw(t, "speed")) / 100
	}
	return toFastest(classes)
}

// fast returns the slots of counts, in slots of the fastest class, and their cost.
func fast(counts []int, classes []Class) (slots, cost float64) {
	for c, n := range counts {
		slots += float64(n*classes[c].Slots) * classes[c].Speed
		cost += float64(n) * classes[c].Cost
	}
	return slots, cost
}

func all(classes []Class) []int {
	counts := make([]int, len(classes))
	for c, class := range classes {
		counts[c] = class.Max
	}
	return counts
}

func TestWithSpeeds(t *testing.T) {
	classes := []Class{{Name: "h100"}, {Name: "t4"}, {Name: "mi300x"}}
	with := func(priors []float64, rates map[string]float64) (speeds []float64) {
		own := slices.Clone(classes)
		for i, p := range priors {
			own[i].Speed = p
		}
		for _, c := range WithSpeeds(own, rates) {
			speeds = append(speeds, c.Speed)
		}
		return speeds
	}
	for _, c := range []struct {
		name   string
		priors []float64
		rates  map[string]float64
		want   []float64
	}{
		{"nothing is known", nil, nil, []float64{1, 1, 1}},
		{"priors alone, relative to any class", []float64{4, 0.48, 2}, nil, []float64{1, 0.12, 0.5}},
		{"all measured", nil, map[string]float64{"h100": 8, "t4": 1, "mi300x": 10}, []float64{0.8, 0.1, 1}},
		{"measured, whatever the priors say", []float64{1, 1, 0.1}, map[string]float64{"h100": 8, "t4": 1, "mi300x": 10}, []float64{0.8, 0.1, 1}},
		{"one measured brings the priors to its scale", []float64{1, 0.25, 0.5}, map[string]float64{"t4": 3}, []float64{1, 0.25, 0.5}},
		{"two measured, one stands in by their mean ratio", []float64{1, 0.1, 1}, map[string]float64{"h100": 2, "t4": 0.8}, []float64{0.5, 0.2, 1}},
		{"without priors the unknown is as the mean of the known", nil, map[string]float64{"h100": 4, "t4": 1}, []float64{1, 0.25, 0.5}},
		{"a class of no policy", nil, map[string]float64{"a100": 4}, []float64{1, 1, 1}},
		{"rates that are none", nil, map[string]float64{"h100": 0, "t4": -1}, []float64{1, 1, 1}},
		{"never worthless", nil, map[string]float64{"h100": 1, "t4": 1e-9, "mi300x": 1}, []float64{1, 0.01, 1}},
	} {
		if got := with(c.priors, c.rates); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A class without devices cannot serve the queue.
func TestTheFastestClassIsOneThatHasDevices(t *testing.T) {
	classes, err := ParseClasses("h100 slots=8 max=0, t4 slots=2 max=8 speed=0.1, l4 slots=2 max=8 speed=0.4")
	if err != nil || classes[0].Speed != 2.5 || classes[1].Speed != 0.25 || classes[2].Speed != 1 {
		t.Fatalf("as written: %+v, %v", classes, err)
	}
	classes = WithSpeeds(classes, map[string]float64{"h100": 10, "t4": 1})
	if classes[0].Speed != 2.5 || classes[1].Speed != 0.25 || classes[2].Speed != 1 {
		t.Errorf("measured: %+v", classes)
	}
	if got := Load(3, 2, map[string]float64{"h100": 2}, classes); got != 8 {
		t.Errorf("2 that the last h100 serves: load %v, want 3 and 2 x 2.5", got)
	}
	if got := Plan(4, classes); !slices.Equal(got, []int{0, 0, 2}) {
		t.Errorf("4 slots: %v", got)
	}
}

func TestNoiseMovesNoSpeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawFast(t, 4)
		before, after, other := map[string]float64{}, map[string]float64{}, map[string]float64{}
		for _, class := range classes {
			before[class.Name] = class.Speed
			after[class.Name] = 7 * class.Speed * rapid.Float64Range(0.965, 1.035).Draw(t, "noise")
		}
		if Moved(classes, before, after) {
			t.Fatalf("%v moved to %v", before, after)
		}
		maps.Copy(other, after)
		other[classes[0].Name] *= rapid.SampledFrom([]float64{0.5, 2}).Draw(t, "change")
		if len(classes) > 1 && !Moved(classes, before, other) {
			t.Fatalf("%v did not move to %v", before, other)
		}
	})
}

func TestLoadIsTheRateOfArrivalsOverTheFastestSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawFast(t, 4)
		const fastest = 2.0 // requests per second and slot
		arrivals, active, byClass := 0.0, 0.0, map[string]float64{}
		for _, class := range classes {
			part := rapid.Float64Range(0, 20).Draw(t, "arrivals")
			byClass[class.Name] = part / (fastest * class.Speed) // Little's law
			arrivals, active = arrivals+part, active+byClass[class.Name]
		}
		if got := Load(0, active, byClass, classes); math.Abs(got-arrivals/fastest) > 1e-9 {
			t.Fatalf("load %v of %v arrivals per second, want %v", got, arrivals, arrivals/fastest)
		}
		if got := Load(3, active+2, byClass, classes); math.Abs(got-arrivals/fastest-5) > 1e-9 {
			t.Fatalf("with 3 that wait and 2 on an unlisted class: %v", got)
		}
	})
}

func TestPlanWithSpeedsCoversWhileDevicesLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawFast(t, 4)
		slots := rapid.IntRange(0, 150).Draw(t, "wanted")
		counts := Plan(slots, classes)
		there, _ := fast(all(classes), classes)
		for c, class := range classes {
			if counts[c] < 0 || counts[c] > class.Max {
				t.Fatalf("%d of class %+v", counts[c], class)
			}
		}
		if got, _ := fast(counts, classes); got < min(float64(slots), there)-1e-6 {
			t.Fatalf("%v offers %v slots of %d wanted and %v there are", counts, got, slots, there)
		}
	})
}

// The capacity of a replica is rounded down to a hundredth of a slot, so the plan is the cheapest
// for a demand that is larger by at most that.
func TestPlanWithSpeedsIsTheCheapest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawFast(t, 3)
		there, dearest := fast(all(classes), classes)
		slots := rapid.IntRange(0, int(there)).Draw(t, "wanted")
		loss := 0.0
		for _, class := range classes {
			loss = max(loss, 1/float64(class.capacity(finest)))
		}
		best := dearest
		var walk func(c int, counts []int)
		walk = func(c int, counts []int) {
			if c == len(classes) {
				if s, cost := fast(counts, classes); s >= float64(slots)*(1+loss)+0.02 {
					best = min(best, cost)
				}
				return
			}
			for n := 0; n <= classes[c].Max; n++ {
				walk(c+1, append(counts, n))
			}
		}
		walk(0, nil)
		if _, cost := fast(Plan(slots, classes), classes); cost > best+1e-9 {
			t.Fatalf("cost %v, cheapest %v", cost, best)
		}
	})
}

func TestPlanWithSpeedsNeverCostsMoreThanGreedy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawFast(t, 4)
		slots := rapid.IntRange(0, 100).Draw(t, "wanted")
		// greedy on replicas with the same integer capacities
		whole, g := slices.Clone(classes), grain(classes)
		for c, class := range classes {
			whole[c].Slots = class.capacity(g)
		}
		_, theirs := offered(greedy(slots*g, whole), whole)
		if _, ours := fast(Plan(slots, classes), classes); ours > theirs+1e-9 {
			t.Fatalf("cost %v against greedy %v", ours, theirs)
		}
	})
}

func TestSlowReplicasCountForLess(t *testing.T) {
	classes := []Class{{Name: "h100", Slots: 8, Cost: 8, Max: 4, Speed: 1}, {Name: "t4", Slots: 2, Cost: 1, Max: 8, Speed: 0.1}}
	for _, c := range []struct{ slots, h100, t4 int }{
		{0, 0, 0}, {1, 0, 5}, {2, 1, 0}, {8, 1, 0}, {9, 1, 5}, {10, 2, 0}, {33, 4, 5}, {34, 4, 8},
	} {
		if got := Plan(c.slots, classes); got[0] != c.h100 || got[1] != c.t4 {
			t.Errorf("%d slots: %v, want h100 %d, t4 %d", c.slots, got, c.h100, c.t4)
		}
	}
	d := Default().decide(flat(18, 900), classes, 0, 1)
	if want := "growing: load 18.0 (average 18.0, last 6s 18.0), speed per slot: h100 1, t4 0.1"; d.Reason != want {
		t.Errorf("the reason is %q, want %q", d.Reason, want)
	}
}

func TestEveryClassGetsTheSamePlanWithSpeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		p.Standby = rapid.IntRange(0, 2).Draw(t, "standby")
		classes := drawFast(t, 4)
		series := rapid.SliceOfN(rapid.Float64Range(0, 40), 6, 800).Draw(t, "series")
		first := p.decide(series, classes, 0, 0)
		counts := make([]int, len(classes))
		for own := range classes {
			d := p.decide(series, classes, own, rapid.IntRange(0, 9).Draw(t, "current"))
			if !slices.Equal(d.Plan, first.Plan) {
				t.Fatalf("class %d plans %v, class 0 plans %v", own, d.Plan, first.Plan)
			}
			counts[own] = d.Count
		}
		there, _ := fast(all(classes), classes)
		got, _ := fast(counts, classes)
		if want := first.Need.Demand / p.Utilization; got < min(there, want)-1e-6 {
			t.Fatalf("the counts %v offer %v slots for a demand of %v", counts, got, first.Need.Demand)
		}
	})
}

// Measured speeds come into force like in the plugins: only when they have moved.
func TestNoFlappingUnderNoiseOfLoadAndSpeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		classes := drawFast(t, 3)
		for c := range classes {
			classes[c].Max *= 10
		}
		level := rapid.Float64Range(0.5, 60).Draw(t, "level")
		const warm, window, end = 960, 900, 4200
		series := noisy(t, level, end)
		counts, shrank := make([]int, len(classes)), make([]bool, len(classes))
		var force map[string]float64
		for now := 60; now <= end; now += 60 {
			rates := map[string]float64{}
			for _, class := range classes {
				rates[class.Name] = class.Speed * rapid.Float64Range(0.975, 1.025).Draw(t, "rate")
			}
			if force == nil || Moved(classes, force, rates) {
				force = rates
			}
			for own := range classes {
				n := p.decide(series[max(0, now-window):now], WithSpeeds(classes, force), own, counts[own]).Count
				if shrank[own] && n > counts[own] {
					t.Fatalf("class %d shrank and grew again under a constant load of %v: %+v", own, level, classes)
				}
				shrank[own] = now > warm && (shrank[own] || n < counts[own])
				counts[own] = n
			}
		}
	})
}

func TestANewMixOfNewSpeedsServesBeforeTheOldGoes(t *testing.T) {
	p := Default()
	classes := []Class{{Name: "h100", Slots: 8, Cost: 8, Max: 4, Speed: 1}, {Name: "t4", Slots: 2, Cost: 1, Max: 8, Speed: 0.1}}
	d := p.decide(flat(18, 900), classes, 1, 8)
	if d.Count >= 8 {
		t.Fatalf("the plan keeps %d of t4, so that this test shows nothing", d.Count)
	}
	c := Config{Policy: p}
	held := c.overlap(d, 8, 20*time.Second)
	if held.Count != 8 || !strings.Contains(held.Reason, "holding 8: the speeds of the classes changed 20s ago") {
		t.Errorf("while the new replicas start: %+v", held)
	}
	promised := Config{Policy: p, Objective: &Objective{TTFT: time.Second, Quantile: 0.99}}
	if held := promised.overlap(d, 8, time.Second); !strings.Contains(held.Reason, "holding 8: what replicas serve within the objective changed 1s ago, and") {
		t.Errorf("by an objective the reason is %q", held.Reason)
	}
	if got := c.overlap(d, 8, p.ColdStart+Step); got.Count != d.Count {
		t.Errorf("when they serve: %d, want %d", got.Count, d.Count)
	}
	if got := c.overlap(d, 0, 0); got.Count != d.Count {
		t.Errorf("growing waits for nothing: %d, want %d", got.Count, d.Count)
	}
	idle := p.decide(flat(0, 900), classes, 1, 8)
	if got := c.overlap(idle, 8, 0); got.Count != 0 {
		t.Errorf("idle: %d, want 0", got.Count)
	}
}

// Many fast devices make the planning units coarse. Planning must stay fast and offer enough
// capacity.
func TestPlanningForManyDevicesTakesNoTime(t *testing.T) {
	classes := []Class{{Name: "h100", Slots: 16, Cost: 8, Max: 5000, Speed: 1}, {Name: "t4", Slots: 1, Cost: 1, Max: 9000, Speed: 0.07}, {Name: "l4", Slots: 4, Cost: 1, Max: 1000, Speed: 0.21}}
	began := time.Now()
	d := Default().decide(flat(30000, 900), classes, 0, 5000)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if got, _ := fast(d.Plan, classes); got < 30000/0.9 {
		t.Errorf("the plan %v offers %v slots for 30000", d.Plan, got)
	}
}

// Measured slots apply, within what can be planned for. Other slots stay.
func TestWithSlots(t *testing.T) {
	classes, err := ParseClasses("a slots=measured max=4, b slots=7 max=4, c slots=measured max=2")
	if err != nil {
		t.Fatal(err)
	}
	got := WithSlots(classes, map[string]float64{"a": 31.9, "b": 50})
	if got[0].Slots != 31 || got[1].Slots != 7 || got[2].Slots != firstSlots || classes[0].Slots != firstSlots {
		t.Errorf("%+v", got)
	}
	if n := WithSlots(classes, map[string]float64{"a": 1e9})[0].Slots; n*10 > MaxSlots || n < 1000 {
		t.Errorf("%d slots", n)
	}
	if n := WithSlots(classes, map[string]float64{"a": 0.3})[0].Slots; n != 1 {
		t.Errorf("%d slots", n)
	}
	for _, c := range []struct {
		from, to map[string]float64
		want     bool
	}{
		{nil, map[string]float64{"a": 20}, true}, {map[string]float64{"a": 20}, map[string]float64{"a": 21}, false},
		{map[string]float64{"a": 20}, map[string]float64{"a": 30}, true}, {nil, map[string]float64{"b": 20}, false}, {map[string]float64{"a": 20}, nil, false},
	} {
		if SlotsMoved(classes, c.from, c.to) != c.want {
			t.Errorf("from %v to %v: want moved %t", c.from, c.to, c.want)
		}
	}
}
