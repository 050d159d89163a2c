package learned

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// An A100 with a model of 8 billion parameters, by docs/hardware.md, and conversations.
var a100 = Curve{
	Start: 0.01, Prefill: 1e-4, Growth: 3.3e-5, A: 0.0118, B: 2.5e-5, C: 8e-8,
	Prompt: 1200, Output: 200, KV: 450_000, Samples: 100,
}

func TestMaxConcurrencyIsBoundedByWhatBindsFirst(t *testing.T) {
	with := func(change func(*Curve)) Curve {
		c := a100
		change(&c)
		return c
	}
	for name, w := range map[string]struct {
		curve     Curve
		objective Objective
		least     float64
		most      float64
	}{
		"nothing but the batch":       {with(func(c *Curve) { c.KV = 0 }), Objective{}, 256, 256},
		"the cache":                   {with(func(c *Curve) { c.KV = 28_000 }), Objective{}, 20, 20},
		"slots":                       {with(func(c *Curve) { c.Slots = 7 }), Objective{}, 7, 7},
		"the time between tokens":     {a100, Objective{TPOT: 0.05}, 8, 60},
		"a tighter one":               {a100, Objective{TPOT: 0.02}, 2, 12},
		"the time to the first token": {a100, Objective{TTFT: 0.2}, 1, 30},
		"a step too long for any":     {a100, Objective{TPOT: 0.01}, 0, 0},
		"a prompt too long to read":   {a100, Objective{TTFT: 0.1}, 0, 0},
	} {
		n, rate := w.curve.MaxConcurrency(w.objective)
		if n < w.least || n > w.most || (n > 0) != (rate > 0) {
			t.Errorf("%s: %v at %v a second, want %v to %v", name, n, rate, w.least, w.most)
		}
	}
}

// Whatever was measured: the number is whole and possible, one more does not meet the
// objective, and a looser objective never allows less.
func TestMaxConcurrencyIsTheLargestThatMeetsTheObjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Curve{
			Start: rapid.Float64Range(0, 1).Draw(t, "start"), Prefill: rapid.Float64Range(0, 0.01).Draw(t, "prefill"),
			Growth: rapid.Float64Range(0, 1e-4).Draw(t, "growth"), A: rapid.Float64Range(0, 1).Draw(t, "a"),
			B: rapid.Float64Range(0, 0.01).Draw(t, "b"), C: rapid.Float64Range(0, 1e-5).Draw(t, "c"),
			Prompt: rapid.Float64Range(0, 1e5).Draw(t, "prompt"), Output: rapid.Float64Range(0, 1e4).Draw(t, "output"),
			KV: rapid.SampledFrom([]float64{0, 1000, 450_000}).Draw(t, "kv"), Slots: rapid.SampledFrom([]float64{0, 1, 64}).Draw(t, "slots"),
		}
		o := Objective{TTFT: rapid.SampledFrom([]float64{0, 0.1, 2}).Draw(t, "ttft"), TPOT: rapid.SampledFrom([]float64{0, 0.01, 0.1}).Draw(t, "tpot")}
		n, rate := c.MaxConcurrency(o)
		if n != math.Floor(n) || n < 0 || n > c.bound() || !(rate >= 0) || math.IsInf(rate, 0) {
			t.Fatalf("%v at %v a second, of %v", n, rate, c.bound())
		}
		if n > 0 && !c.meets(o, n) || n+1 <= c.bound() && c.meets(o, n+1) {
			t.Fatalf("%v is not the largest that meets the objective", n)
		}
		if looser, _ := c.MaxConcurrency(Objective{TTFT: 2 * o.TTFT, TPOT: 2 * o.TPOT}); looser < n {
			t.Fatalf("twice the time allows %v, once %v", looser, n)
		}
	})
}

func TestCurvesMergeBySamples(t *testing.T) {
	a, b := a100, a100
	b.A, b.B, b.Prompt, b.KV, b.Samples = 0.0218, 0, 0, 0, 300
	var s curves
	s.add(a, a.Samples)
	s.add(b, b.Samples)
	got := s.merged()
	if !near(got.A, 0.0193) || !near(got.B, 2.5e-5/4) || !near(got.Prompt, 1200) || !near(got.KV, 450_000) || !near(got.Samples, 400) {
		t.Fatalf("%+v", got)
	}
}

func TestSlicesAreReadBack(t *testing.T) {
	for _, of := range [][2]int{{6, 20}, {1, 1}, {8, 1}} {
		if slices, total, ok := ParseSlices(SlicesOf(of[0], of[1])); !ok || slices != of[0] || total != of[1] {
			t.Errorf("%v is read back as %d of %d, %t", of, slices, total, ok)
		}
	}
	for _, key := range []string{"", "6", "of20", "0of20", "6of", "-1of2", "6of0", "6of20x"} {
		if _, _, ok := ParseSlices(key); ok {
			t.Errorf("%q is taken", key)
		}
	}
}
