package dispatch

import (
	"fmt"
	"math"
	"testing"
	"time"

	"aliquot.example/e2e/modelserver/engine"
)

// plant is a fleet of engines in simulated time under a queue: each request is a
// prompt of 1,000 tokens, more or less, and an answer of 100.
type plant struct {
	q       *Queue
	engines map[string]*engine.Engine
	ends    map[string]time.Time
	ids     []string
	now     time.Time
	whole   bool
	sent    map[string]int
	ended   int
	lateSum time.Duration
}

// job is a request of a plant.
type job struct {
	ticket   *Ticket
	at       time.Time
	sequence engine.Sequence
}

func newPlant(policy Policy) *plant {
	return &plant{q: New(policy), engines: map[string]*engine.Engine{}, ends: map[string]time.Time{}, now: epoch, sent: map[string]int{}}
}

// add starts a replica of a class of the engine model, as fast as slow says; its
// class is given to the queue as name, with a weight.
func (p *plant) add(class, name string, weight, slow float64) string {
	h, _ := engine.Class(class)
	h.Bandwidth, h.FLOPS, h.Overhead = h.Bandwidth/slow, h.FLOPS/slow, h.Overhead*slow
	id := fmt.Sprint(len(p.ids))
	p.ids = append(p.ids, id)
	p.engines[id] = engine.New(engine.Config{Hardware: h})
	p.q.Put(Replica{ID: id, Class: name, Weight: weight, KV: h.KVTokens})
	return id
}

// run lets rate requests a second come for a while.
func (p *plant) run(rate float64, length time.Duration) {
	clear(p.sent)
	p.ended, p.lateSum = 0, 0
	every := time.Duration(float64(time.Second) / rate)
	end, next, i := p.now.Add(length), p.now, 0
	for p.now.Before(end) {
		at, who := next, ""
		if w := p.q.LookAgain(); !w.IsZero() && w.Before(at) {
			at = w
		}
		for _, id := range p.ids {
			if t, busy := p.ends[id]; busy && t.Before(at) {
				at, who = t, id
			}
		}
		p.now = at
		switch {
		case who != "":
			p.step(who)
		case at.Equal(next):
			i++
			// Arrivals and lengths that are uneven, and the same in every run.
			next = next.Add(every * time.Duration(50+i*37%101) / 100)
			p.arrive(500 + i*613%1000)
		}
		for k := p.q.Next(p.now); k != nil; k = p.q.Next(p.now) {
			j := k.Value.(*job)
			p.sent[k.on.ID]++
			j.sequence = engine.Sequence{Prompt: k.Prompt, Output: 100, Value: j}
			if err := p.engines[k.on.ID].Add(&j.sequence); err != nil {
				panic(err)
			}
			if _, busy := p.ends[k.on.ID]; !busy {
				p.begin(k.on.ID)
			}
		}
	}
}

func (p *plant) arrive(prompt int) {
	j := &job{at: p.now}
	j.ticket = &Ticket{Value: j, Request: Request{Prompt: prompt, Whole: p.whole, Expire: p.now.Add(time.Hour)}}
	if why, _ := p.q.Submit(j.ticket, p.now); why != Accepted {
		panic(why)
	}
}

func (p *plant) begin(id string) {
	delete(p.ends, id)
	if took, ok := p.engines[id].Begin(); ok {
		p.ends[id] = p.now.Add(took)
	}
}

func (p *plant) step(id string) {
	tokens := p.engines[id].End()
	p.begin(id)
	for _, s := range tokens {
		j := s.Value.(*job)
		if s.Made() == 1 {
			p.lateSum += p.now.Sub(j.at)
			p.ended++
		}
		if !p.whole {
			p.q.Progress(j.ticket, s.Made(), p.now)
		}
		if s.Made() == s.Output {
			p.q.Settle(j.ticket, s.Prompt, -1, s.Output)
			p.q.Finish(j.ticket, Served, 0, p.now)
		}
	}
}

// mean is the mean time to the first token in the last run.
func (p *plant) mean() time.Duration { return p.lateSum / time.Duration(max(1, p.ended)) }

// Assumptions three times off in either direction for either class, and answers
// that stream or come whole: after a minute of traffic requests are served almost
// as early as where the assumptions are right, and no class is left out.
func TestWrongAssumptionsAreOvercome(t *testing.T) {
	for _, whole := range []bool{false, true} {
		var right time.Duration
		for _, off := range [][2]float64{{1, 1}, {3, 1}, {1.0 / 3, 1}, {1, 3}, {1, 1.0 / 3}, {3, 1.0 / 3}, {1.0 / 3, 3}} {
			p := newPlant(Policy{Mode: Tokens})
			p.whole = whole
			// Names that the hardware table does not know: the weights count.
			p.add("h100", "x", 1*off[0], 1)
			p.add("h100", "x", 1*off[0], 1)
			p.add("a100", "y", 0.4*off[1], 1)
			p.add("a100", "y", 0.4*off[1], 1)
			p.run(45, time.Minute)
			p.run(45, 30*time.Second)
			if off == [2]float64{1, 1} {
				right = p.mean()
			}
			if p.mean() > 2*right+100*time.Millisecond {
				t.Errorf("whole %v, assumed %v: mean time to the first token %v, with the right assumptions %v", whole, off, p.mean(), right)
			}
			for _, id := range p.ids {
				if p.sent[id] < 30 {
					t.Errorf("whole %v, assumed %v: replicas were sent %v", whole, off, p.sent)
				}
			}
		}
	}
}

func TestASlowReplicaOfItsKindGetsLess(t *testing.T) {
	p := newPlant(Policy{Mode: Tokens})
	slow := p.add("a100", "a100-80gb", 0.6, 3)
	for range 3 {
		p.add("a100", "a100-80gb", 0.6, 1)
	}
	p.run(15, time.Minute)
	p.run(15, 30*time.Second)
	if share := float64(p.sent[slow]) / (15 * 30); share > 0.15 {
		t.Errorf("a replica a third as fast as three others was sent %.0f%%: %v", 100*share, p.sent)
	}
}

// What is published lets others count: a replica serves Rate x Slots.
func TestPublishedRatesAreThoseOfBatches(t *testing.T) {
	p := newPlant(Policy{Mode: Tokens, SLO: SLO{TPOT: 100 * time.Millisecond}})
	p.add("h100", "h100", 1, 1)
	p.add("l4", "l4", 0.085, 1)
	p.run(20, time.Minute)
	rates := p.q.Rates()
	for class, most := range map[string]float64{"h100": 40, "l4": 8} {
		r := rates[class]
		if got := r.Rate * r.Slots; got < most/8 || got > most || r.Slots < 4 || r.Samples < 20 {
			t.Errorf("%s serves %.1f requests/s, %.1f at once, learned from %.0f: no more than %g/s is possible", class, got, r.Slots, r.Samples, most)
		}
	}
	if ratio := rates["h100"].Rate * rates["h100"].Slots / (rates["l4"].Rate * rates["l4"].Slots); math.Abs(math.Log(ratio/5)) > math.Log(2) {
		t.Errorf("an h100 is published as %g l4", ratio)
	}
}

// A gateway that starts again plans with what was learned before, and for hardware that is
// new with what that says of the model.
func TestCurvesThatWereLearnedBeforeAreAssumed(t *testing.T) {
	put := func(q *Queue) {
		q.Put(Replica{ID: "a", Class: "a100-80gb", Slices: 6, Total: 20, Weight: 0.1})
		q.Put(Replica{ID: "b", Class: "l4", Slices: 1, Total: 1, Weight: 0.085})
	}
	fresh := New(Policy{Mode: Tokens})
	put(fresh)
	before := fresh.Speeds(epoch)
	seen := Curve{
		Slices: 6, Total: 20, Start: 3 * before[0].speed.prefill[0], Prefill: 3 * before[0].speed.prefill[1],
		A: 2 * before[0].speed.step[0], B: 2 * before[0].speed.step[1], C: 1e9,
	}
	for name, order := range map[string]func(*Queue, func()){
		"replicas first": func(q *Queue, seed func()) { put(q); seed() },
		"speeds first":   func(q *Queue, seed func()) { seed(); put(q) },
	} {
		q := New(Policy{Mode: Tokens})
		order(q, func() {
			q.Seed(map[string]Rate{"a100-80gb": {Rate: 1, Slots: 1, Samples: 9, Curves: []Curve{{Slices: 5, Total: 20, A: 9}, seen}}})
		})
		got := q.Speeds(epoch)
		if r := got[0].PrefillTime(1000) / before[0].PrefillTime(1000); math.Abs(r-3) > 1e-6 {
			t.Errorf("%s: reading takes %g times as long as the table says, want 3", name, r)
		}
		if r := got[1].PrefillTime(1000) / before[1].PrefillTime(1000); math.Abs(r-3) > 1e-6 {
			t.Errorf("%s: on the other hardware %g times, want 3", name, r)
		}
		if r := got[0].StepTime(1, 0) / before[0].StepTime(1, 0); math.Abs(r-2) > 1e-6 {
			t.Errorf("%s: a step takes %g times as long, want 2", name, r)
		}
		if r := got[0].speed.step[2] / before[0].speed.step[2]; r > maxCoefficient*1.001 {
			t.Errorf("%s: a token in the cache takes %g times as long: that could not be learned otherwise", name, r)
		}
	}
}
