package strategy

import (
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

// A class that begins to miss the objective goes when the class that replaces it has had the
// time to start.
func TestAClassThatIsDroppedServesUntilAnotherDoes(t *testing.T) {
	c := startChat(t)
	set := func(class string) map[string]string {
		return map[string]string{"class": class, "classes": "h100 slots=8 cost=50 max=8, l4 slots=4 cost=1 max=8", "objective": "ttft=2s tpot=100ms", "coldstart": "90s"}
	}
	expect := func(when, class string, count, want int64, reason string) {
		t.Helper()
		c.count = count
		a, err := c.run("tokens service=chat", set(class))
		if err != nil || a.Count != want || !strings.Contains(a.Reason, reason) {
			t.Fatalf("%s, %s: %+v, %v; want %d, %q", when, class, a, err, want, reason)
		}
	}
	later := func(d time.Duration) { c.now = c.now.Add(d) }
	c.learn(map[string]learned.Curve{"h100": fast, "l4": slow})
	expect("after a start of the plugin", "h100", 2, 2, "holding 2: ")
	later(91 * time.Second)
	expect("one cold start later", "h100", 2, 0, "by the objective")
	c.count = 0
	a, err := c.run("tokens service=chat", set("l4"))
	if err != nil || a.Count == 0 {
		t.Fatalf("the plan has no l4: %+v, %v", a, err)
	}
	serving := a.Count
	// What moves by little moves nothing.
	little := slow
	little.Prefill *= 1.05
	c.learn(map[string]learned.Curve{"h100": fast, "l4": little})
	expect("a little slower", "l4", serving+2, serving, "by the objective")

	missing := slow
	missing.A = 0.2
	c.learn(map[string]learned.Curve{"h100": fast, "l4": missing})
	expect("it misses the objective", "l4", serving, serving, "holding")
	expect("it misses the objective", "h100", 0, 1, "growing")
	later(80 * time.Second)
	expect("the other starts", "l4", serving, serving, "holding")
	later(11 * time.Second)
	expect("the other serves", "l4", serving, 0, "by the objective")
	// What was learned holds while Consul is away.
	c.stop()
	expect("without Consul", "h100", 1, 1, "by the objective")
}

// While gateways do not answer, it is not known how many replicas are enough.
func TestNothingIsPutToSleepWhileAnAnswerIsMissing(t *testing.T) {
	c := startChat(t)
	c.learn(map[string]learned.Curve{"h100": fast})
	settings := map[string]string{"slots": "64", "objective": "ttft=2s tpot=100ms", "sleep": "2"}
	c.count = 5
	if a, err := c.run("concurrency service=chat", settings); err != nil || c.told.Load() != 1 || a.Count != 3 {
		t.Fatalf("told %d times, %+v, %v; want once, and 3", c.told.Load(), a, err)
	}
	c.down = true
	if a, err := c.run("concurrency service=chat", settings); err != nil || c.told.Load() != 1 || a.Count != 5 {
		t.Errorf("told %d times, %+v, %v; want once, and 5", c.told.Load(), a, err)
	}
}

func promise(classes ...string) *scale.Config {
	c := &scale.Config{Objective: &scale.Objective{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond, Quantile: 0.9}}
	for _, name := range classes {
		c.Classes = append(c.Classes, scale.Class{Name: name, Max: 4})
	}
	return c
}

// A class whose replicas take about as long as they may with one request does not come and go.
func TestAClassAtTheEdgeOfAnObjectiveStays(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	edge := func(a float64) known {
		curve := slow
		curve.A = a
		return known{curves: sizes[learned.Curve]{"h100": {"1of1": fast}, "l4": {"1of1": curve}}}
	}
	f := force{}.next(c, edge(0.060), now)
	for i, step := range []struct {
		a   float64
		met bool
	}{{0.095, true}, {0.105, true}, {0.095, true}, {0.130, false}, {0.105, false}, {0.060, true}} {
		f = f.next(c, edge(step.a), now.Add(time.Duration(i)*time.Minute))
		if met := f.serving["l4"].Most > 0; met != step.met {
			t.Errorf("with steps of %v: met is %t", step.a, met)
		}
	}
	if f.age(now.Add(6*time.Minute)) != time.Minute {
		t.Errorf("the last change was %s ago", f.age(now.Add(6*time.Minute)))
	}
	one := promise("l4")
	if age := (force{}).next(one, edge(0.06), now).age(now); age != scale.Always {
		t.Errorf("one class alone waits for another: %s", age)
	}
}

// Of two sizes of a class one curve counts, whichever requests were counted last.
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
	f := force{}.next(c, known{curves: sizes[learned.Curve]{"h100": curves(101, 100)}}, now)
	first := f.serving["h100"]
	for i := range 10 {
		f = f.next(c, known{curves: sizes[learned.Curve]{"h100": curves(100, float64(100+i))}}, now)
		if f.serving["h100"] != first {
			t.Fatalf("%+v after %+v", f.serving["h100"], first)
		}
	}
	if f = f.next(c, known{}, now); f.serving["h100"] != first || f.tokens == 0 {
		t.Errorf("nothing newer is known, and the old is forgotten: %+v", f)
	}
}

// A class that is assumed to serve something stays in the plan while Consul is away, as those
// do that were measured.
func TestAnAssumedClassStaysWhileNothingIsKnown(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	f := force{}.next(c, known{curves: sizes[learned.Curve]{"h100": {"1of1": fast}}}, now)
	was := f.serving["l4"]
	if !f.assumed["l4"] || was.Rate <= 0 {
		t.Fatalf("%+v", f)
	}
	later := now.Add(time.Hour)
	if f = f.next(c, known{}, later); !f.assumed["l4"] || f.serving["l4"] != was || f.age(later) != time.Hour {
		t.Errorf("without an answer of Consul: %+v, in force for %s", f, f.age(later))
	}
}

// A clock that is set back keeps counts from shrinking for one cold start, and not until it is
// where it was.
func TestAClockThatIsSetBack(t *testing.T) {
	c, now := promise("h100", "l4"), time.Now()
	k := known{curves: sizes[learned.Curve]{"h100": {"1of1": fast}, "l4": {"1of1": slow}}}
	f := force{}.next(c, k, now.Add(24*time.Hour))
	f = f.next(c, k, now)
	if f = f.next(c, k, now.Add(time.Minute)); f.age(now.Add(time.Minute)) != time.Minute {
		t.Errorf("in force for %s", f.age(now.Add(time.Minute)))
	}
}
