package weigh

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func whole(class string, n int) []Instance {
	out := make([]Instance, n)
	for i := range out {
		out[i] = Instance{ID: fmt.Sprint(class, i), Group: Group{Class: class}, Healthy: true}
	}
	return out
}

func join(all ...[]Instance) []Instance {
	var out []Instance
	for _, a := range all {
		out = append(out, a...)
	}
	return out
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9*math.Max(math.Abs(a), math.Abs(b)) }

func tableWeight(t *testing.T, class string) float64 {
	t.Helper()
	h, ok := byClass(class)
	if !ok {
		t.Fatalf("%s is not in the table", class)
	}
	return h.Weight
}

func TestSourcesInOrder(t *testing.T) {
	instances := join(whole("h100", 2), whole("l4", 3), whole("mystery", 1), whole("newgpu", 1))
	h100, l4 := tableWeight(t, "h100"), tableWeight(t, "l4")
	profiles := map[string]Profile{"l4": {Weight: 0.5}, "newgpu": {Spec: Spec{Bandwidth: 3350, TFLOPS: 989, Architecture: "Hopper"}}}
	got := Weights(instances, nil, nil, profiles, DefaultTrust(), noon)
	mean := (h100 + 0.5 + 1) / 3
	for class, want := range map[string]Weight{
		"h100": {Value: h100, Source: FromTable}, "l4": {Value: 0.5, Source: FromProfile},
		"newgpu": {Value: 1, Source: FromFormula}, "mystery": {Value: mean, Source: FromMean},
	} {
		if w := got[class]; w.Source != want.Source || !near(w.Value, want.Value) {
			t.Errorf("%s: got %+v, want %+v", class, w, want)
		}
	}
	// Learned rates in a unit of their own: h100 is really 20 x l4.
	learned := map[string]Rate{"h100": {Replica: 200, Samples: 1000, Updated: noon}, "l4": {Replica: 10, Samples: 1000, Updated: noon}}
	got = Weights(instances, nil, learned, nil, DefaultTrust(), noon)
	if h, l := got["h100"], got["l4"]; h.Source != FromLearned || l.Source != FromLearned || !near(h.Value/l.Value, 20) || h.Confidence < 0.9 {
		t.Errorf("learned: got %+v and %+v", h, l)
	}
	if w := got["h100"].Value; w < h100/2 || w > h100*2*l4/l4 {
		t.Errorf("learned weights left the scale of the table: %v", w)
	}
}

func TestDoubtfulRatesArePassedOver(t *testing.T) {
	instances := join(whole("h100", 1), whole("l4", 1), whole("mi300x", 1))
	table := func(class string, f float64) float64 { return tableWeight(t, class) * f }
	for name, c := range map[string]struct {
		rate Rate
		used bool
	}{
		"good":        {Rate{Replica: table("h100", 8), Samples: 500, Updated: noon}, true},
		"few samples": {Rate{Replica: table("h100", 8), Samples: 3, Updated: noon}, false},
		"old":         {Rate{Replica: table("h100", 8), Samples: 500, Updated: noon.Add(-2 * time.Hour)}, false},
		"of tomorrow": {Rate{Replica: table("h100", 8), Samples: 500, Updated: noon.Add(24 * time.Hour)}, false},
		"outlier":     {Rate{Replica: table("h100", 1e6), Samples: 500, Updated: noon}, false},
		"too small":   {Rate{Replica: table("h100", 1e-6), Samples: 500, Updated: noon}, false},
	} {
		learned := map[string]Rate{"h100": c.rate, "l4": {Replica: table("l4", 10), Samples: 500, Updated: noon}, "mi300x": {Replica: table("mi300x", 10), Samples: 500, Updated: noon}}
		got := Weights(instances, nil, learned, nil, DefaultTrust(), noon)["h100"]
		if (got.Source == FromLearned) != c.used || !c.used && got.Note == "" {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestSlicesTakeTheirPart(t *testing.T) {
	sliced := func(slices, total int, claim float64) Instance {
		return Instance{Group: Group{Class: "h100", Slices: slices, Total: total}, Weight: claim, Healthy: true}
	}
	instances := []Instance{sliced(0, 0, 0), sliced(5, 20, 0), sliced(6, 0, 0.3)}
	got := Weights(instances, nil, nil, nil, DefaultTrust(), noon)
	h := tableWeight(t, "h100")
	if !near(got["h100"].Value, h) || !near(got["h100-s5of20"].Value, h/4) || !near(got["h100-s6"].Value, 0.3) {
		t.Errorf("table: %+v", got)
	}
	got = Weights(instances, nil, nil, map[string]Profile{"h100": {Weight: 8}}, DefaultTrust(), noon)
	if !near(got["h100-s5of20"].Value, 2) || !near(got["h100-s6"].Value, 8*0.3/h) {
		t.Errorf("profile: %+v", got)
	}
	// The class's one learned rate is that of its mean replica.
	got = Weights(instances, nil, map[string]Rate{"h100": {Replica: 100, Samples: 500, Updated: noon}}, nil, DefaultTrust(), noon)
	if w := got["h100-s5of20"]; w.Source != FromLearned || !near(got["h100"].Value/w.Value, 4) {
		t.Errorf("learned: %+v", got)
	}
}

func TestFormula(t *testing.T) {
	if f := Formula(Spec{3350, 989, "Hopper"}); !near(f, 1) {
		t.Errorf("H100 SXM is %v", f)
	}
	for _, s := range []Spec{{}, {Bandwidth: -1, TFLOPS: 1}, {Bandwidth: math.NaN(), TFLOPS: 1}} {
		if f := Formula(s); f != 0 {
			t.Errorf("%+v gives %v", s, f)
		}
	}
}

// A group without instances keeps the weight that it had: by the last instance's
// word, and by its name alone where that is not known.
func TestAGoneGroupKeepsItsWeight(t *testing.T) {
	h100 := []Instance{{Group: Group{Class: "h100", Slices: 5, Total: 20}, Weight: 0.4}}
	l4 := whole("l4", 2)
	learned := map[string]Rate{"h100": {Replica: 40, Samples: 500, Updated: noon}, "l4": {Replica: 9, Samples: 500, Updated: noon}}
	profiles := map[string]Profile{"newgpu": {Weight: 3}}
	others := join(l4, whole("newgpu", 1))
	before := Weights(join(h100, others), nil, learned, profiles, DefaultTrust(), noon)
	after := Weights(others, h100, learned, profiles, DefaultTrust(), noon)
	if !reflect.DeepEqual(before, after) {
		t.Errorf("was %+v, is %+v", before, after)
	}
	// Another part of the same class is registered: the gone one bends no mean.
	half := []Instance{{Group: Group{Class: "h100", Slices: 10, Total: 20}, Weight: 0.5}}
	alone := Weights(join(half, others), nil, learned, profiles, DefaultTrust(), noon)
	beside := Weights(join(half, others), h100, learned, profiles, DefaultTrust(), noon)
	for name, w := range alone {
		if beside[name] != w {
			t.Errorf("%s is %+v beside a gone group and %+v without", name, beside[name], w)
		}
	}
	// After a restart of the router only the names are known.
	g, err := ParseGroup("h100-s5of20")
	if err != nil {
		t.Fatal(err)
	}
	if w := Weights(l4, []Instance{{Group: g}}, nil, nil, DefaultTrust(), noon)["h100-s5of20"]; !near(w.Value, tableWeight(t, "h100")/4) || w.Source != FromTable {
		t.Errorf("by name alone: %+v", w)
	}
}

// Replicas of one class with different parts of its GPUs are weighed by what each was
// measured to serve, not by their parts; a class that was not measured keeps its place.
func TestGroupsMeasuredApartAreWeighedApart(t *testing.T) {
	sliced := func(n int) Instance {
		return Instance{Group: Group{Class: "h100", Slices: n, Total: 20}, Healthy: true}
	}
	instances := append(whole("l4", 1), sliced(5), sliced(10))
	learned := map[string]Rate{"h100": {
		Replica: 6000, Samples: 400, Updated: noon, Tokens: true,
		Groups: map[string]Measured{"h100-s5of20": {Replica: 2000, Samples: 200}, "h100-s10of20": {Replica: 9000, Samples: 200}, "h100-s20of20": {Replica: 1, Samples: 200}},
	}}
	got := Weights(instances, nil, learned, nil, DefaultTrust(), noon)
	small, large := got["h100-s5of20"], got["h100-s10of20"]
	if !near(large.Value/small.Value, 4.5) || !near(small.Tokens, 2000) || !near(large.Tokens, 9000) || large.Source != FromLearned {
		t.Errorf("%+v and %+v, want 2000 and 9000 tokens a second", small, large)
	}
	if l4 := got["l4"]; l4.Source != FromTable || l4.Tokens != 0 || !near(l4.Value, tableWeight(t, "l4")) {
		t.Errorf("the class that was not measured: %+v", l4)
	}
	// Too few samples of a group, or a nonsensical rate of it, are passed over.
	learned["h100"].Groups["h100-s5of20"] = Measured{Replica: 2000, Samples: 2}
	learned["h100"].Groups["h100-s10of20"] = Measured{Replica: 1e9, Samples: 200}
	got = Weights(instances, nil, learned, nil, DefaultTrust(), noon)
	if w := got["h100-s5of20"]; w.Source != FromLearned || near(w.Tokens, 2000) {
		t.Errorf("too few samples: %+v", w)
	}
	if w := got["h100-s10of20"]; w.Source != FromTable || w.Note == "" {
		t.Errorf("nonsense: %+v", w)
	}
}

// What was benchmarked stands in for a rate, however old: how old it may be was decided
// where it was chosen.
func TestWhatWasBenchmarkedIsUsedLikeARate(t *testing.T) {
	instances := []Instance{{Group: Group{Class: "h100"}}, {Group: Group{Class: "l4"}}}
	learned := map[string]Rate{
		"h100": {Replica: 6000, Samples: 400, Updated: noon, Tokens: true},
		"l4":   {Replica: 2000, Samples: 900, Updated: noon.Add(-60 * 24 * time.Hour), Tokens: true, Bench: true},
	}
	got := Weights(instances, nil, learned, nil, DefaultTrust(), noon)
	if h, l := got["h100"], got["l4"]; h.Source != FromLearned || l.Source != FromBench || !near(h.Value/l.Value, 3) || !near(l.Tokens, 2000) {
		t.Errorf("%+v and %+v", h, l)
	}
	trust := DefaultTrust()
	for _, w := range []struct {
		samples float64
		age     time.Duration
		want    bool
	}{{20, 0, true}, {500, 30 * time.Minute, true}, {10, 0, false}, {500, time.Hour, false}} {
		if got := trust.Believes(w.samples, w.age); got != w.want {
			t.Errorf("%v samples of %s ago: %t", w.samples, w.age, got)
		}
	}
}
