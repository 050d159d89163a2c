package dispatch

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// learnUsual teaches a queue that answers have so many tokens.
func learnUsual(q *Queue, tokens int) {
	q.averages.output = float64(tokens)
	for range lengthsEvery {
		q.averages.lengths.add(1)
	}
}

// answering lets a replica alone work on answers of which each has made tokens, of the
// 50 that are usual, in so long since its first one.
func answering(t *testing.T, q *Queue, on string, n, tokens int, since time.Duration, now time.Time) []*Ticket {
	t.Helper()
	var out []*Ticket
	for i := range n {
		k := ask(fmt.Sprint(on, i), func(r *Request) { r.Prompt = 10 })
		submit(t, q, now.Add(-since), k)
		s := q.fleet.servers[on]
		work := s.tier.kind.speed.prefillTime(10, 10)
		q.start(k, choice{on: s, work: work}, now.Add(-since))
		q.Began(k, now.Add(-since))
		q.Progress(k, tokens, now)
		out = append(out, k)
	}
	return out
}

var strict = SLO{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond}

// Five answers that can spare nothing weigh more than ten that can.
func TestAPromptGoesWhereNoAnswerMissesTheObjective(t *testing.T) {
	for _, c := range []struct {
		slo  SLO
		want string
	}{{strict, "spare"}, {SLO{}, "tight"}} {
		q := New(Policy{Mode: Tokens, SLO: c.slo})
		q.Put(Replica{ID: "tight", Class: "h100", Weight: 1, KV: 400_000})
		q.Put(Replica{ID: "spare", Class: "h100", Weight: 1, KV: 400_000})
		now := epoch.Add(time.Minute)
		q.walk.survey(q.waitlist.waiting, now)
		learnUsual(q, 50)
		// 40 tokens in 4.4 s: what is left of 4.9 s goes to the last ten steps, nearly.
		answering(t, q, "tight", 5, 40, 4400*time.Millisecond, now)
		answering(t, q, "spare", 10, 40, time.Second, now)
		submit(t, q, now, ask("prompt", tokens(20_000, 50)))
		k := q.Next(now)
		if k == nil {
			t.Fatalf("objective %v: the prompt waits", c.slo)
		}
		if r, _ := k.Replica(); r.ID != c.want {
			t.Errorf("objective %v: the prompt goes to %s, want %s", c.slo, r.ID, c.want)
		}
	}
}

// A prompt waits for answers that it would spoil, as long as it is in time itself.
func TestAPromptWaitsForAnswersThatItWouldSpoil(t *testing.T) {
	start := func(slo SLO) (*Queue, []*Ticket, time.Time) {
		q := New(Policy{Mode: Tokens, SLO: slo})
		q.Put(Replica{ID: "r", Class: "h100", Weight: 1, KV: 400_000})
		now := epoch.Add(time.Minute)
		q.walk.survey(q.waitlist.waiting, now)
		learnUsual(q, 50)
		answers := answering(t, q, "r", 3, 40, 4400*time.Millisecond, now)
		submit(t, q, now, ask("prompt", tokens(12_000, 50)))
		return q, answers, now
	}
	for _, slo := range []SLO{{}, {TTFT: strict.TTFT}, {TPOT: strict.TPOT}} {
		if q, _, now := start(slo); q.Next(now) == nil {
			t.Errorf("objective %v: the prompt waits", slo)
		}
	}
	q, answers, now := start(strict)
	if q.Next(now) != nil {
		t.Fatal("the prompt is sent though three answers then miss the objective")
	}
	if wake := q.LookAgain(); !wake.After(now) || wake.After(now.Add(time.Second)) {
		t.Errorf("it is looked at again at %v", wake.Sub(now))
	}
	for _, k := range answers {
		q.Finish(k, Served, 0, now.Add(100*time.Millisecond))
	}
	if q.Next(now.Add(100*time.Millisecond)) == nil {
		t.Error("the prompt waits though the answers have ended")
	}
	q, _, now = start(strict)
	if q.Next(now.Add(2*time.Second)) == nil {
		t.Error("the prompt waits until it is late itself")
	}
}

// In Tokens mode a prompt lets shorter ones pass that come up to 3 seconds later for each
// 1,000 tokens more, and no others.
func TestALongPromptLetsShorterOnesPass(t *testing.T) {
	for after, first := range map[time.Duration]string{
		2900 * time.Millisecond: "short", 3100 * time.Millisecond: "long",
	} {
		q := New(Policy{Mode: Tokens})
		expire := func(r *Request) { r.Expire = epoch.Add(time.Hour) }
		submit(t, q, epoch, ask("long", tokens(2000, 10), expire))
		submit(t, q, epoch.Add(after), ask("short", tokens(1000, 10), func(r *Request) { r.Expire = epoch.Add(time.Hour + after) }))
		q.Put(Replica{ID: "r", Class: "h100"})
		k := q.Next(epoch.Add(after))
		if k == nil || k.Value != first {
			t.Errorf("of a prompt of 2,000 tokens and one of 1,000 that came %s later, %v is first, want %s", after, k, first)
		}
	}
}

// A risk never falls with more reading, is never more than the answers that there are,
// and is found as it would be by counting.
func TestRiskIsTheAnswersThatWouldMiss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r risk
		var lefts []float64
		for range rapid.IntRange(0, 30).Draw(t, "answers") {
			left := rapid.Float64Range(0, 100).Draw(t, "left")
			lefts = append(lefts, left)
			r.add(left, 1)
		}
		r.sum()
		last := 0.0
		for x := 1.0 / 32; x < 64; x *= 1.1 {
			got := r.of(x)
			var least, most float64
			for _, left := range lefts {
				if left < x/1.5 {
					least++
				}
				if left < x*1.5+1.0/64 {
					most++
				}
			}
			if x < 16 && (got < least-1e-9 || got > most+1e-9) || got < last-1e-9 {
				t.Fatalf("risk of %g s is %g after %g, want %g to %g of %v", x, got, last, least, most, lefts)
			}
			last = got
		}
	})
}

// A request whose first token is late anyway goes where it takes little from others, and
// one that is in time where its own answer is soonest.
func TestALateRequestGoesWhereItTakesLittleFromOthers(t *testing.T) {
	for waited, want := range map[time.Duration]string{0: "fast", 6 * time.Second: "slow"} {
		q := New(Policy{Mode: Tokens, SLO: SLO{TTFT: 5 * time.Second}, Placements: []Placement{{Require: []string{"h100", "a100-80gb"}}}})
		q.Put(Replica{ID: "fast", Class: "h100", KV: 400_000})
		q.Put(Replica{ID: "slow", Class: "a100-80gb", KV: 400_000})
		now := epoch.Add(time.Minute)
		q.walk.survey(q.waitlist.waiting, now)
		answering(t, q, "fast", 4, 40, time.Second, now)
		for i := range 14 { // others count for less where few requests wait for many replicas
			q.Put(Replica{ID: fmt.Sprint(i), Class: "l4", KV: 80_000})
		}
		submit(t, q, now.Add(-waited), ask("prompt", tokens(20_000, 50)))
		k := q.Next(now)
		if k == nil {
			t.Fatalf("after %s: the prompt waits", waited)
		}
		if r, _ := k.Replica(); r.ID != want {
			t.Errorf("after %s: the prompt goes to %s, want %s", waited, r.ID, want)
		}
	}
}

// A prefix must save more where the answer's own tokens would come too far apart.
func TestAnAnswerAvoidsSlowTokens(t *testing.T) {
	// least is how many blocks must be on the full replica for a request to go there.
	least := func(slo SLO) int {
		for hit := range 30 {
			q := New(Policy{Mode: Tokens, SLO: slo})
			q.Put(Replica{ID: "full", Class: "l4", KV: 100_000})
			q.Put(Replica{ID: "idle", Class: "l4", KV: 100_000})
			now := epoch.Add(time.Minute)
			q.walk.survey(q.waitlist.waiting, now)
			learnUsual(q, 50)
			old := ask("old", tokens(80_000, 50), func(r *Request) { r.Whole = true })
			submit(t, q, now, old)
			q.start(old, choice{on: q.fleet.servers["full"], work: 0.001}, now.Add(-time.Second))
			q.Began(old, now.Add(-time.Second))
			k := ask("new", chat(1, 30, 50))
			q.fleet.index.add(q.fleet.servers["full"].prefixes, k.Blocks[:hit], 100)
			submit(t, q, now, k)
			q.walk.survey(q.waitlist.waiting, now)
			q.fleet.index.match(k.Blocks)
			if best, _ := q.walk.leastCost(k, q.averages.needOf(k), 0); best.on.ID == "full" {
				return hit
			}
		}
		t.Fatalf("objective %v: nothing goes to the full replica", slo)
		return 0
	}
	free, bound := least(SLO{}), least(SLO{TPOT: 100 * time.Millisecond})
	if free == 0 || bound <= free {
		t.Errorf("%d cached blocks are worth tokens of 135 ms to an answer, and %d where 100 ms are promised: want more", free, bound)
	}
}
