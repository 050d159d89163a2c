package learned

import (
	"testing"

	"pgregory.net/rapid"
)

// A part of the requests is harder to keep than the mean, and the harder the larger it is.
func TestAQuantileIsHarderThanTheMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Curve{
			Start: 0.01, Prefill: rapid.Float64Range(1e-5, 1e-3).Draw(t, "prefill"), A: rapid.Float64Range(0.005, 0.05).Draw(t, "a"), B: 2e-5,
			C: rapid.Float64Range(1e-8, 1e-6).Draw(t, "c"), Prompt: rapid.Float64Range(1, 20_000).Draw(t, "prompt"),
			Output: rapid.Float64Range(1, 1000).Draw(t, "output"), KV: 100_000,
		}
		o := Objective{TTFT: rapid.Float64Range(0, 5).Draw(t, "ttft"), TPOT: rapid.Float64Range(0, 0.3).Draw(t, "tpot")}
		mean, _ := c.MaxConcurrency(o)
		half, most := c.Within(o, 0.5), c.Within(o, 0.99)
		if half.Concurrency > mean || most.Concurrency > half.Concurrency {
			t.Fatalf("%v requests at once in the mean, %v for half of them, %v for 99%%", mean, half.Concurrency, most.Concurrency)
		}
		if !(most.Rate > 0) || !(most.First > 0) || !(most.Token > 0) || !(most.Slack >= 0) {
			t.Fatalf("%+v", most)
		}
		if rate, _, _ := c.At(max(1, most.Concurrency)); most.Concurrency > 0 && rate != most.Rate {
			t.Fatalf("%v at once are %v a second, not %v", most.Concurrency, rate, most.Rate)
		}
	})
}

func TestWhatCannotBeKeptIsToldForOneRequest(t *testing.T) {
	c := Curve{Prefill: 1e-4, A: 0.02, B: 2e-5, C: 1e-7, Prompt: 1000, Output: 100, KV: 100_000}
	l := c.Within(Objective{TTFT: 0.01}, 0.99)
	_, first, token := c.At(1)
	_, most := c.MaxConcurrency(Objective{})
	if l.Concurrency != 0 || l.First != first || l.Token != token || l.Rate != most/2 {
		t.Errorf("%+v, want none at once, %v and %v of one, and half of %v a second", l, first, token, most)
	}
	slow := c
	slow.Output = 400
	if a, b := c.Within(Objective{E2E: 5}, 0.9).Concurrency, slow.Within(Objective{E2E: 5}, 0.9).Concurrency; a == 0 || b != 0 {
		t.Errorf("5 s to the end of 100 tokens at %v at once, of 400 at %v", a, b)
	}
}

// One request alone is held up by no other: what it meets in the mean it meets always, however
// little its answer could spare.
func TestARequestAloneIsHeldUpByNoOther(t *testing.T) {
	c := Curve{Start: 0.002, Prefill: 144e-6, A: 0.0147, B: 20e-6, C: 196e-9, Prompt: 2000, Output: 28, KV: 80_000}
	o := Objective{TTFT: 3, TPOT: 0.1}
	l := c.Within(o, 0.99)
	if n, _ := c.MaxConcurrency(o); l.Concurrency < 1 || l.Concurrency >= n {
		t.Errorf("short answers to long prompts: %v at once, in the mean %v", l.Concurrency, n)
	}
}

// A gateway can defer prompts for answers only if the first token may wait. Then more fits.
func TestPromptsThatMayWaitDelayAnswersLess(t *testing.T) {
	c := Curve{Start: 0.002, Prefill: 144e-6, A: 0.0147, B: 20e-6, C: 196e-9, Prompt: 1155, Output: 211, KV: 80_000}
	tokens, both := Objective{TPOT: 0.1}, Objective{TTFT: 3, TPOT: 0.1}
	mean, _ := c.MaxConcurrency(both)
	if a, b := c.Within(tokens, 0.99).Concurrency, c.Within(both, 0.99).Concurrency; a >= b || b >= mean {
		t.Errorf("%v at once if no prompt may wait, %v if it may, %v in the mean: want them to rise", a, b, mean)
	}
}
