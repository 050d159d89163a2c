package scale

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var one = []Class{{Name: "gpu", Slots: 4, Cost: 1, Max: 1000}}

func flat(level float64, seconds int) []float64 {
	return slices.Repeat([]float64{level}, seconds)
}

func join(parts ...[]float64) []float64 { return slices.Concat(parts...) }

func count(p Policy, series []float64, current int) int {
	return p.decide(series, one, 0, current).Count
}

func TestForecastIgnoresNoise(t *testing.T) {
	p := Default()
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.Float64Range(1, 50).Draw(t, "level")
		series := noisy(t, level, 200)
		if f := p.decide(series, one, 0, 0).Need.Forecast; f > 1.3*level {
			t.Fatalf("forecast %v of a constant %v", f, level)
		}
	})
}

// noisy draws a constant load with 10% noise.
func noisy(t *rapid.T, level float64, seconds int) []float64 {
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	series := make([]float64, seconds)
	for i := range series {
		series[i] = level * (0.9 + 0.2*random.Float64())
	}
	return series
}

func TestNoFlappingUnderNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		classes := drawClasses(t, 3)
		for c := range classes {
			classes[c].Max *= 10
		}
		level := rapid.Float64Range(0.5, 60).Draw(t, "level")
		const warm, window, end = 960, 900, 4200
		series := noisy(t, level, end)
		for own := range classes {
			current, shrank := 0, false
			for now := 60; now <= end; now += 60 {
				n := p.decide(series[max(0, now-window):now], classes, own, current).Count
				if shrank && n > current {
					t.Fatalf("class %d shrank and grew again under a constant load of %v: %+v", own, level, classes)
				}
				shrank = now > warm && (shrank || n < current)
				current = n
			}
		}
	})
}

func TestEveryClassGetsTheSamePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		classes := drawClasses(t, 4)
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
		limit := 0
		for _, class := range classes {
			limit += class.Slots * class.Max
		}
		if got, _ := offered(counts, classes); got < min(limit, SlotsFor(first.Need.Demand, p.Utilization)) {
			t.Fatalf("the counts %v offer %d slots for a demand of %v", counts, got, first.Need.Demand)
		}
	})
}

func TestShortHistoryNeverShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		classes := drawClasses(t, 3)
		series := rapid.SliceOfN(rapid.Float64Range(0, 40), 1, steps(p.Window())-1).Draw(t, "series")
		current := rapid.IntRange(0, 100).Draw(t, "current")
		for own := range classes {
			if d := p.decide(series, classes, own, current); d.Count < current {
				t.Fatalf("shrank from %d to %d on %d s of history", current, d.Count, len(series))
			}
		}
	})
}

// A decision depends only on the series, so a new process makes the same decision in the middle of
// a burst.
func TestABurstIsRememberedByTheSeries(t *testing.T) {
	p := Default()
	series := join(flat(2, 900), flat(40, 20))
	before := count(p, series, 1)
	for later := 1; later < 290; later++ {
		series = append(series, 2)
		if n := count(p, series[len(series)-900:], before); n < before {
			t.Fatalf("%d s after a burst the count fell from %d to %d", later, before, n)
		}
	}
}

// An old peak decays at a time that is unrelated to the demand. A rise that the averages do not
// show yet must keep what it needs.
func TestNothingShrinksUnderARisingDemand(t *testing.T) {
	p := Default()
	p.StableWindow, p.DownDelay, p.ColdStart, p.ForecastWindow = p.PanicWindow, 12*time.Second, 4*time.Second, 0
	past := join(flat(40, 20), flat(4, 40))
	if got := count(p, past, 3); got != 2 {
		t.Fatalf("without a rise: %d, want 2", got)
	}
	rise := join(past, []float64{4, 4, 9})
	if got := count(p, rise, 3); got != 3 {
		t.Errorf("while 9 requests wait or are served by 4 each: %d, want 3", got)
	}
	classes := []Class{{Name: "t4", Slots: 2, Cost: 1, Max: 4, Speed: 1}, {Name: "mi300x", Slots: 4, Cost: 5, Max: 3, Speed: 1}}
	if got := p.decide(rise, classes, 1, 2).Count; got != 1 {
		t.Errorf("mi300x beside 8 slots of t4: %d, want 1", got)
	}
	if got := count(p, join(rise, flat(4, 12)), 3); got != 2 {
		t.Errorf("when the rise is over: %d, want 2", got)
	}
}

// The replica that the gateway started from zero is of the cheapest class, and the plan for a burst
// may not include it.
func TestNothingShrinksInABurst(t *testing.T) {
	p := Default()
	classes := []Class{{Name: "mi300x", Slots: 4, Cost: 5, Max: 3, Speed: 1}, {Name: "t4", Slots: 2, Cost: 1, Max: 4, Speed: 0.14}}
	series := join(flat(0, 900), []float64{3})
	if got := p.decide(series, classes, 0, 0); got.Count != 1 {
		t.Errorf("mi300x: %d, want 1: %s", got.Count, got.Reason)
	}
	if got := p.decide(series, classes, 1, 1); got.Count != 1 || !strings.HasPrefix(got.Reason, "holding 1: load") {
		t.Errorf("t4: %d, want 1: %s", got.Count, got.Reason)
	}
}

// Less demand can need more replicas of a small class. That is not growth.
func TestAChangeOfMixIsNamed(t *testing.T) {
	p := Default()
	p.StableWindow, p.DownDelay, p.ColdStart, p.ForecastWindow = p.PanicWindow, 12*time.Second, 4*time.Second, 0
	classes := []Class{{Name: "h100", Slots: 4, Cost: 6, Max: 2, Speed: 1}, {Name: "mi300x", Slots: 4, Cost: 5, Max: 3, Speed: 0.9}, {Name: "t4", Slots: 2, Cost: 1, Max: 4, Speed: 0.12}}
	at := func(series []float64) Decision { return p.decide(series, classes, 2, 0) }
	if got := at(join(flat(5, 60), flat(4.1, 8))); got.Count != 0 {
		t.Fatalf("%d of t4 at 5 held: %s", got.Count, got.Reason)
	}
	if got := at(join(flat(8.2, 60), flat(1, 18))); got.Count == 0 || !strings.HasPrefix(got.Reason, "changing to a cheaper mix for what is held: load 4.1 (average 1.0") {
		t.Errorf("%d of t4 at 4.1 held: %s", got.Count, got.Reason)
	}
	if got := at(flat(4.1, 60)); got.Count == 0 || !strings.HasPrefix(got.Reason, "growing: load 4.1") {
		t.Errorf("%d of t4 at 4.1: %s", got.Count, got.Reason)
	}
}

// The limits may be lowered while a service is flooded.
func TestShrinkingToTheLimitUnderAnyDemandTakesNoTime(t *testing.T) {
	classes := []Class{{Name: "l4", Slots: 2, Cost: 1, Max: 16, Speed: 1}, {Name: "h100", Slots: 8, Cost: 3.5, Max: 4, Speed: 1}}
	began := time.Now()
	if got := Default().decide(flat(1e9, 900), classes, 0, 20).Count; got != 16 {
		t.Errorf("%d, want all there are", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	p := Default()
	p.Utilization = 1.2
	if err := p.Validate(); err == nil || err.Error() != "utilization is 1.2: want 0.01 to 1" {
		t.Errorf("got %v", err)
	}
}

func ExampleConfig_Decide() {
	c := Config{Policy: Default(), Classes: []Class{{Name: "h100", Slots: 8, Cost: 1, Max: 12}}}
	series := append(flat(2, 900), flat(40, 6)...)
	d := c.Decide(Evaluation{Series: series, Current: 1, SpeedsFor: Always})
	fmt.Println(d.Count, d.Reason)
	// Output: 6 growing: demand 40.0 (average 5.8, last 6s 40.0, burst)
}

// Surplus replicas sleep, up to the limit, before any replica ends. The replicas that are needed
// never depend on it.
func TestSleepInPlaceOfEnding(t *testing.T) {
	p := Default()
	p.Utilization, p.Hysteresis, p.Sleep = 0.75, 0, 2
	d := (Config{Policy: p}).overlap(p.decide(flat(9, 900), one, 0, 4), 4, time.Second)
	if d.Count != 4 || d.Awake != 4 {
		t.Errorf("just after speeds have changed %d, %d awake", d.Count, d.Awake)
	}
	rapid.Check(t, func(t *rapid.T) {
		series := rapid.SliceOfN(rapid.Float64Range(0, 50), 1, 900).Draw(t, "series")
		current := rapid.IntRange(0, 20).Draw(t, "current")
		p.Sleep = rapid.IntRange(0, 5).Draw(t, "sleep")
		plain := p
		plain.Sleep = 0
		d, without := p.decide(series, one, 0, current), plain.decide(series, one, 0, current)
		if d.Awake != without.Count || d.Count < d.Awake || d.Count > max(current, d.Awake) || d.Count-d.Awake > p.Sleep {
			t.Fatalf("%+v, without sleep %+v", d, without)
		}
	})
}
