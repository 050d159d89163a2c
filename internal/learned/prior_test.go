package learned

import (
	"math"
	"testing"
)

func TestAPriorIsScaledByTheHardware(t *testing.T) {
	h100 := Curve{Start: 0.01, Prefill: 36e-6, Growth: 3e-5, A: 8e-3, B: 20e-6, C: 49e-9, Prompt: 1000, Output: 200, KV: 450_000, Rate: 9, Samples: 90}
	few := Curve{Prefill: 1, A: 1, Prompt: 1, Output: 1, Samples: 8}
	known := map[string]map[string]Curve{"h100": {"5of20": h100}, "a100-80gb": {"1of1": few}, "own-chip": {"1of1": {A: 1, Samples: 1e6}}}
	known["a100-80gb"]["of no GPU"] = Curve{Prefill: 1, A: 1, Samples: 1e6} // it would serve without an end
	got, ok := Prior("l4", 1, known)
	if !ok {
		t.Fatal("nothing is known of l4")
	}
	// A whole L4 beside a quarter of an H100: 121 of 247 TFLOPS, 300 of 837 GB/s.
	within := func(what string, got, want float64) {
		if math.Abs(got/want-1) > 0.1 {
			t.Errorf("%s is %v, want about %v", what, got, want)
		}
	}
	within("reading", got.Prefill, 36e-6*247/121)
	within("the start", got.Start, 0.01*247/121)
	within("a step", got.A, 8e-3*837/300)
	within("a token in the cache", got.C, 49e-9*837/300)
	if got.B != h100.B || got.Growth != h100.Growth || got.Prompt != 1000 || got.Output != 200 || got.KV != 0 || got.Rate != 0 || got.Samples != 0 {
		t.Errorf("got %+v", got)
	}
	half, _ := Prior("l4", 0.5, known)
	within("a step on half of one", half.A, 2*got.A)
	for class, known := range map[string]map[string]map[string]Curve{"own-chip": known, "l4": {"own-chip": known["own-chip"]}, "h100": {"h100": known["h100"]}} {
		if c, ok := Prior(class, 1, known); ok {
			t.Errorf("%s of %v: %+v", class, known, c)
		}
	}
}
