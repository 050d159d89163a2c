package scale

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rising returns a demand that rises steadily from one level to another within over, as seen at the
// time after.
func rising(from, to float64, over, after time.Duration) []float64 {
	series := make([]float64, steps(after))
	for i := range series {
		series[i] = from + (to-from)*min(1, float64(i)/float64(steps(over)))
	}
	return series
}

func demandOf(p Policy, series []float64) float64 { return p.need(p.replay(series), series).Demand }

// A steady rise is anticipated: after one minute of it, the demand expected half a cold start later
// is ordered, whatever the demand was at the start.
func TestASteadyRiseIsMetBeforeTheLoadIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		p.ColdStart = time.Duration(rapid.IntRange(30, 120).Draw(t, "cold start, s")) * time.Second
		from := rapid.Float64Range(1, 10).Draw(t, "from")
		to := from + rapid.Float64Range(10, 100).Draw(t, "rise")
		over := time.Duration(rapid.IntRange(300, 900).Draw(t, "over, s")) * time.Second
		after := time.Duration(rapid.IntRange(60, 300).Draw(t, "after, s")) * time.Second
		then := rising(from, to, over, after+p.ColdStart/2)
		if got, want := demandOf(p, rising(from, to, over, after)), then[len(then)-1]; got < want {
			t.Fatalf("after %v of a rise from %.1f to %.1f in %v it is %.1f, and will be %.1f half a cold start later", after, from, to, over, got, want)
		}
	})
}

// A small change of demand or history changes the order only slightly: by at most an eighth if the
// history is so short that one more second lengthens its ten blocks.
func TestARiseIsMetSmoothly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		p.ColdStart = time.Duration(rapid.IntRange(30, 300).Draw(t, "cold start, s")) * time.Second
		from := rapid.Float64Range(1, 10).Draw(t, "from")
		to := from + rapid.Float64Range(0, 100).Draw(t, "rise")
		over := time.Duration(rapid.IntRange(300, 900).Draw(t, "over, s")) * time.Second
		after := time.Duration(rapid.IntRange(60, 600).Draw(t, "after, s")) * time.Second
		is := demandOf(p, rising(from, to, over, after))
		for what, other := range map[string]float64{
			"a second more":           demandOf(p, rising(from, to, over, after+time.Second)),
			"a hundredth more demand": demandOf(p, rising(1.01*from, 1.01*to, over, after)),
		} {
			if other < 0.9*is-0.5 || other > 1.12*is+0.5 {
				t.Fatalf("%s makes %.2f of %.2f", what, other, is)
			}
		}
	})
}
