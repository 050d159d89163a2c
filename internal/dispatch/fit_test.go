package dispatch

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever samples came before, the coefficients stay within their bounds, and a
// minute of true ones brings the predictions back.
func TestAdversarialSamplesAreForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFit(3, stepMemory)
		now := epoch
		assumed := assumed(1, 1)
		for range rapid.IntRange(0, 300).Draw(t, "bad samples") {
			n, kv := rapid.Float64Range(0, 500).Draw(t, "n"), rapid.Float64Range(0, 1e6).Draw(t, "kv")
			y := rapid.SampledFrom([]float64{0, -1, 1e-12, 1e-3, 1, 1e6, math.Inf(1), math.NaN()}).Draw(t, "y")
			f.add(assumed.stepTerms(n, kv), y, 1, now)
			now = now.Add(10 * time.Millisecond)
		}
		for _, c := range f.now(now, 1) {
			if !(c >= minCoefficient && c <= maxCoefficient) {
				t.Fatalf("coefficients %v are out of bounds", f.theta)
			}
		}
		truth := speed{step: [3]float64{
			assumed.step[0] * rapid.SampledFrom([]float64{0.3, 1, 3}).Draw(t, "a"),
			assumed.step[1] * rapid.SampledFrom([]float64{0.3, 1, 3}).Draw(t, "b"),
			assumed.step[2] * rapid.SampledFrom([]float64{0.3, 1, 3}).Draw(t, "c"),
		}}
		for i := range 4000 { // a minute of steps of 15 ms
			n := float64(1 + i*7%40)
			kv := n * float64(500+i*13%1500)
			if i%10 == 0 {
				f.solve()
			}
			f.add(assumed.stepTerms(n, kv), truth.stepTime(n, kv), 1, now)
			now = now.Add(15 * time.Millisecond)
		}
		got := f.now(now, 1)
		for _, n := range []float64{1, 10, 40} {
			kv := n * 1000
			is := f.of(assumed.stepTerms(n, kv))
			if want := truth.stepTime(n, kv); math.Abs(is/want-1) > 0.25 {
				t.Fatalf("a step of %g sequences is predicted as %g s, want %g (%v)", n, is, want, got)
			}
		}
	})
}

func TestWhatIsIdleIsTriedAgain(t *testing.T) {
	f := newFit(2, prefillMemory)
	v := assumed(1, 1)
	for range 300 {
		f.solve()
		f.add(v.prefillTerms(1, 1000), 50*v.prefillTime(1000, 1000), 1, epoch)
	}
	f.solve()
	if r := f.of(v.prefillTerms(1, 1000)) / v.prefillTime(1000, 1000); r < 10 {
		t.Fatalf("300 samples of 50 times the assumed time are believed as %g times", r)
	}
	got := f.now(epoch.Add(30*time.Minute), 1)
	for _, c := range got {
		if c < 0.9 || c > 1.1 {
			t.Errorf("after 30 minutes without a sample the coefficients are %v, want what was assumed", got)
			break
		}
	}
}
