package objective

import (
	"testing"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

var (
	fast = learned.Curve{Prefill: 36e-6, A: 8e-3, B: 20e-6, C: 49e-9, Prompt: 1000, Output: 200, KV: 450_000, Samples: 90}
	slow = learned.Curve{Prefill: 147e-6, A: 37e-3, B: 20e-6, C: 546e-9, Prompt: 1000, Output: 200, KV: 85_000, Samples: 90}
)

func promise(classes ...string) *scale.Config {
	c := &scale.Config{Objective: &scale.Objective{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond, Quantile: 0.9}}
	for _, name := range classes {
		c.Classes = append(c.Classes, scale.Class{Name: name, Max: 4})
	}
	return c
}

// A class at the edge of the objective with one request does not flap between meeting and missing
// it.
func TestAClassAtTheEdgeOfAnObjectiveStays(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	edge := func(a float64) Known {
		curve := slow
		curve.A = a
		return Known{Curves: Sizes[learned.Curve]{"h100": {"1of1": fast}, "l4": {"1of1": curve}}}
	}
	f := Force{}.Next(c, edge(0.060), now)
	for i, step := range []struct {
		a   float64
		met bool
	}{{0.095, true}, {0.105, true}, {0.095, true}, {0.130, false}, {0.105, false}, {0.060, true}} {
		f = f.Next(c, edge(step.a), now.Add(time.Duration(i)*time.Minute))
		if met := f.serving["l4"].Concurrency > 0; met != step.met {
			t.Errorf("with steps of %v: met is %t", step.a, met)
		}
	}
	if f.Age(now.Add(6*time.Minute)) != time.Minute {
		t.Errorf("the last change was %s ago", f.Age(now.Add(6*time.Minute)))
	}
	one := promise("l4")
	if age := (Force{}).Next(one, edge(0.06), now).Age(now); age != scale.Always {
		t.Errorf("one class alone waits for another: %s", age)
	}
}

// Of two sizes of a class, the same curve applies whichever was learned last.
func TestTheCurveOfAClassIsOneAndTheSame(t *testing.T) {
	small, large := slow, fast
	curves := func(ofSmall, ofLarge float64) map[string]learned.Curve {
		small.Samples, large.Samples = ofSmall, ofLarge
		return map[string]learned.Curve{"5of20": small, "10of20": large}
	}
	for _, step := range []struct {
		name     string
		curves   map[string]learned.Curve
		replicas map[string]int
		inForce  string
		want     string
	}{
		{"nothing is known", nil, map[string]int{"5of20": 1}, "", ""},
		{"the most taught", curves(100, 101), nil, "", "10of20"},
		{"about as many", curves(101, 100), nil, "10of20", "10of20"},
		{"about as many", curves(100, 101), nil, "5of20", "5of20"},
		{"many more", curves(100, 201), nil, "5of20", "10of20"},
		{"a tie", curves(100, 100), nil, "", "10of20"},
		{"replicas of one size", curves(10, 1000), map[string]int{"5of20": 1}, "10of20", "5of20"},
		{"replicas of an unknown size", curves(100, 101), map[string]int{"1of1": 3}, "5of20", "5of20"},
	} {
		for range 20 { // maps have no order
			if got := choose(step.curves, step.replicas, step.inForce); got != step.want {
				t.Fatalf("%s: %q, want %q", step.name, got, step.want)
			}
		}
	}
	c, now := promise("h100"), time.Now()
	f := Force{}.Next(c, Known{Curves: Sizes[learned.Curve]{"h100": curves(101, 100)}}, now)
	first := f.serving["h100"]
	for i := range 10 {
		f = f.Next(c, Known{Curves: Sizes[learned.Curve]{"h100": curves(100, float64(100+i))}}, now)
		if f.serving["h100"] != first {
			t.Fatalf("%+v after %+v", f.serving["h100"], first)
		}
	}
	if f = f.Next(c, Known{}, now); f.serving["h100"] != first || f.tokens == 0 {
		t.Errorf("nothing newer is known, and the old is forgotten: %+v", f)
	}
}

// An assumed class stays in the plan while Consul is away, like measured classes.
func TestAnAssumedClassStaysWhileNothingIsKnown(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	f := Force{}.Next(c, Known{Curves: Sizes[learned.Curve]{"h100": {"1of1": fast}}}, now)
	was := f.serving["l4"]
	if !f.assumed["l4"] || was.Rate <= 0 {
		t.Fatalf("%+v", f)
	}
	later := now.Add(time.Hour)
	if f = f.Next(c, Known{}, later); !f.assumed["l4"] || f.serving["l4"] != was || f.Age(later) != time.Hour {
		t.Errorf("without an answer of Consul: %+v, in force for %s", f, f.Age(later))
	}
}

// A clock that is set back keeps counts from shrinking for one cold start, not until it reaches its
// old time.
func TestAClockThatIsSetBack(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	k := Known{Curves: Sizes[learned.Curve]{"h100": {"1of1": fast}, "l4": {"1of1": slow}}}
	f := Force{}.Next(c, k, now.Add(24*time.Hour))
	f = f.Next(c, k, now)
	if f = f.Next(c, k, now.Add(time.Minute)); f.Age(now.Add(time.Minute)) != time.Minute {
		t.Errorf("in force for %s", f.Age(now.Add(time.Minute)))
	}
}

// The reason of a count names the classes whose curve comes from a profile. Similar curves from
// served requests replace a profile's without keeping counts from shrinking.
func TestACurveSaysThatItIsOfAProfile(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	measured := now.Add(-9 * 24 * time.Hour)
	profile := learned.Profile{Measured: measured, Class: "l4", Slices: "1of1", Answers: 500, Curve: &slow}
	rates := learned.NewRates(now)
	rates.Classes["h100"] = learned.Class{Rate: 1, Samples: 90, Tokens: map[string]learned.Curve{"1of1": fast}}
	known := func() Known {
		return KnownOf(now, []learned.Rates{rates}, []learned.Profile{profile}, nil)
	}
	f := Force{}.Next(c, known(), now)
	classes := f.Serving(c.Classes)
	if !classes[1].Profiled.Equal(measured) || !classes[0].Profiled.IsZero() {
		t.Fatalf("%+v", classes)
	}
	if away := f.Next(c, Known{}, now.Add(time.Minute)); !away.Equal(f) {
		t.Errorf("while Consul is away: %+v", away)
	}
	rates.Classes["l4"] = learned.Class{Rate: 1, Samples: 90, Tokens: map[string]learned.Curve{"1of1": slow}}
	served := f.Next(c, known(), now.Add(time.Minute))
	if classes = served.Serving(c.Classes); !classes[1].Profiled.IsZero() || served.Age(now.Add(time.Minute)) != time.Minute {
		t.Errorf("after requests: %+v, in force for %s", classes, served.Age(now.Add(time.Minute)))
	}
}
