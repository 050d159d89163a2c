package simulate

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

// engineCurve is about that of an 8 B model on a quarter of an H100.
var engineCurve = learned.Curve{Start: 0.002, Prefill: 144e-6, Growth: 3.3e-5, A: 14.7e-3, B: 20e-6, C: 196e-9, KV: 80_000}

func tokens(at float64, input, output int) Request {
	return Request{At: time.Duration(at * float64(time.Second)), InputTokens: input, OutputTokens: output}
}

func batching(trace ...Request) Result {
	class := Class{Name: "h100", Speed: 1, Slots: 1, Initial: 1, Curve: &engineCurve}
	return Run(Config{Classes: []Class{class}, Objective: Objective{TTFT: time.Second}}, trace, fixed{counts: []int{1}})
}

func near(got time.Duration, want float64) bool { return math.Abs(got.Seconds()-want) < 1e-4 }

func TestABatchTakesWhatItsCurveSays(t *testing.T) {
	r := batching(tokens(0.5, 1000, 101))
	prefill := engineCurve.PrefillTime(1000)
	if !near(r.Firsts[0]-500*time.Millisecond, prefill) {
		t.Errorf("the first token after %v, want %.4f s", r.Firsts[0]-500*time.Millisecond, prefill)
	}
	// 100 further tokens while the cache grows from 1001 to 1101.
	decoding := 100*engineCurve.StepTime(1, 1001) + engineCurve.C*100*100/2
	if !near(r.Ends[0]-r.Firsts[0], decoding) {
		t.Errorf("the answer took %v, want %.4f s", r.Ends[0]-r.Firsts[0], decoding)
	}
	// A prompt that arrives in between delays the response by its prefill.
	both := batching(tokens(0.5, 1000, 101), tokens(1, 2000, 1))
	if late := both.Ends[0] - r.Ends[0]; !near(late, engineCurve.PrefillTime(2000)) {
		t.Errorf("a prompt of 2000 tokens makes the answer later by %v, want %.4f s", late, engineCurve.PrefillTime(2000))
	}
	if both.Ends[1] != both.Firsts[1] {
		t.Errorf("an answer of one token ends at %v, and began at %v", both.Ends[1], both.Firsts[1])
	}
}

// In a steady state, a batch serves the rate that the curve gives for its concurrency.
func TestASteadyBatchServesTheRateOfItsCurve(t *testing.T) {
	known := engineCurve
	known.Prompt, known.Output = 1000, 200
	const n = 20
	rate, first, token := known.At(n)
	var trace []Request
	for i := range 4000 {
		trace = append(trace, tokens(float64(i)/rate, 1000, 200))
	}
	r := batching(trace...)
	var firsts, each float64
	for i := 1000; i < 4000; i++ {
		firsts += (r.Firsts[i] - trace[i].At).Seconds() / 3000
		each += (r.Ends[i] - r.Firsts[i]).Seconds() / 199 / 3000
	}
	demand := 0.0
	half := r.Timeline[len(r.Timeline)/4 : len(r.Timeline)*3/4]
	for _, s := range half {
		demand += s.Demand / float64(len(half))
	}
	// Evenly spaced requests do not wait for each other, so the first token comes sooner than the
	// curve's mean for random arrivals.
	if math.Abs(demand/n-1) > 0.05 || math.Abs(each/token-1) > 0.05 || firsts > first {
		t.Errorf("%.1f at once, want %d; %.4f s per token, want %.4f; first token after %.3f s, want less than %.3f", demand, n, each, token, firsts, first)
	}
}

// Every request is served once, times are in order, and met and missed requests add up to all.
func TestEveryRequestOfABatchEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trace []Request
		now := 0.0
		for range rapid.IntRange(1, 120).Draw(t, "requests") {
			now += rapid.Float64Range(0, 1).Draw(t, "gap")
			trace = append(trace, tokens(now, rapid.IntRange(0, 30_000).Draw(t, "input"), rapid.IntRange(0, 600).Draw(t, "output")))
		}
		classes := []Class{{Name: "h100", Curve: &engineCurve, Initial: 1, ColdStart: 9 * time.Second}, {Name: "l4", Curve: &engineCurve, ColdStart: 5 * time.Second}}
		objective := Objective{TTFT: 3 * time.Second, TPOT: 100 * time.Millisecond}
		scaler := &PolicyScaler{
			Policy: scale.Default(), Every: time.Second, QueryWindow: time.Hour, Min: []int{1, 0},
			Classes:   []scale.Class{{Name: "h100", Slots: 1, Cost: 2, Max: 4, Speed: 1}, {Name: "l4", Slots: 1, Cost: 1, Max: 4, Speed: 1}},
			Objective: &scale.Objective{TTFT: objective.TTFT, TPOT: objective.TPOT, Quantile: 0.9},
		}
		for range classes {
			known := engineCurve
			known.Prompt, known.Output = 15_000, 300
			scaler.Curves = append(scaler.Curves, known)
		}
		w := &counting{PolicyScaler: scaler}
		r := Run(Config{Classes: classes, Objective: objective}, trace, w)
		met := 0
		for i, q := range trace {
			if r.Firsts[i] < q.At || r.Ends[i] < r.Firsts[i] {
				t.Fatalf("request %d at %v began at %v and ended at %v", i, q.At, r.Firsts[i], r.Ends[i])
			}
			if objective.met(q, r.Firsts[i], r.Ends[i]) {
				met++
			}
		}
		if share := r.Attained(trace, objective); math.Abs(share-float64(met)/float64(len(trace))) > 1e-9 {
			t.Fatalf("%v attained, want %d of %d", share, met, len(trace))
		}
		if w.ended > len(trace) {
			t.Fatalf("%d requests ended of %d", w.ended, len(trace))
		}
	})
}

// counting counts the ended requests that the scaler was shown.
type counting struct {
	*PolicyScaler
	ended int
}

func (c *counting) Decide(o Observation) []int {
	c.ended = 0
	for i := range o.Met {
		c.ended += int(o.Met[i] + o.Missed[i])
	}
	return c.PolicyScaler.Decide(o)
}

// Requests of absurd length end a replay one day after the last arrival. Requests of ordinary
// length are served before that.
func TestWhatNeverEndsEndsTheReplay(t *testing.T) {
	slots := []Class{{Name: "gpu", Slots: 2, Speed: 1e-300, Initial: 1}}
	model := ServiceModel{PerInputToken: time.Hour, PerOutputToken: time.Hour}
	pair := Class{Name: "h100", Speed: 1, Slots: 1, Initial: 2, Curve: &engineCurve}
	two := func(trace ...Request) Result {
		return Run(Config{Classes: []Class{pair}}, trace, fixed{counts: []int{2}})
	}
	for name, r := range map[string]Result{
		"an answer": two(tokens(0, 1, 1e9), tokens(5, 100, 100)),
		"a prompt":  two(tokens(0, 100, 100), tokens(5, 1e9, 1)),
		"a service": Run(Config{Classes: slots}, []Request{{Service: model.Time(1e9, 1e9)}, {At: 5 * time.Second}}, fixed{counts: []int{1}}),
	} {
		if end := 24*time.Hour + 5*time.Second; r.Length < end || r.Length > end+2*time.Second {
			t.Errorf("%s: the replay ends after %v, want %v", name, r.Length, end)
		}
		served := 0
		for _, at := range r.Ends {
			if at > 0 {
				served++
			}
		}
		if name != "a service" && served != 1 {
			t.Errorf("%s: %d requests are served, want 1", name, served)
		}
	}
}
