package dispatch

import (
	"testing"
	"time"
)

// Samples of one class that are absurd, as from an engine that stalled or answers that
// a proxy held back, do not keep it from work: a minute of traffic later every replica is
// sent its part, where the fleet needs all of them.
func TestNoClassIsStarvedByBadSamples(t *testing.T) {
	for _, class := range []string{"x", "y"} {
		for _, factor := range []float64{1e-6, 0.1, 10, 1e6} {
			p := newPlant(Policy{Mode: Tokens, SLO: SLO{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond}})
			p.add("h100", "x", 1, 1)
			p.add("h100", "x", 1, 1)
			p.add("a100", "y", 0.4, 1)
			p.add("a100", "y", 0.4, 1)
			p.run(45, 30*time.Second)
			p.poison(class, factor)
			p.run(45, time.Minute)
			p.run(45, 30*time.Second)
			for _, id := range p.ids {
				if p.sent[id] < 30 {
					t.Errorf("half a minute, a minute after samples of %s that were %g times off: replicas were sent %v", class, factor, p.sent)
				}
			}
		}
	}
}

// A class that others can do without is tried again though bad samples made it look slow.
func TestAClassThatLooksSlowIsTriedAgain(t *testing.T) {
	p := newPlant(Policy{Mode: Tokens})
	p.add("h100", "x", 1, 1)
	slow := p.add("h100", "y", 1, 1)
	p.run(12, 30*time.Second)
	p.poison("y", 1e6)
	p.run(12, 10*time.Minute)
	p.run(12, time.Minute)
	if p.sent[slow] < 60 {
		t.Errorf("of two equal replicas, the one that looked slow ten minutes ago was sent %v of 720", p.sent)
	}
}

// poison teaches 300 samples of reading and of steps that are factor times as long as
// was expected.
func (p *plant) poison(class string, factor float64) {
	for _, k := range p.q.fleet.kinds {
		if k.class != class {
			continue
		}
		for range 300 {
			k.prefill.solve()
			k.step.solve()
			k.prefill.add(k.assumed.prefillTerms(1, 1000), factor*k.speed.prefillTime(1000, 1000), 1, p.now)
			k.step.add(k.assumed.stepTerms(10, 10_000), factor*k.speed.stepTime(10, 10_000), 1, p.now)
		}
	}
	p.q.fleet.stale = true
}
