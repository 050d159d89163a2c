package dispatch

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// One that sleeps gets nothing; it is woken when nobody awake could serve, or when it is
// sooner awake than the others are through.
func TestToWake(t *testing.T) {
	const takes = 5 * time.Second
	toWake := func(q *Queue) string {
		id, _ := q.ToWake(takes)
		return id
	}
	for _, mode := range []Mode{Slots, Tokens} {
		q := New(Policy{Mode: mode, Placements: []Placement{{}, {Require: []string{"a100"}}}})
		put := func(id, class string, weight float64, s Sleep) {
			q.Put(Replica{ID: id, Class: class, Slices: 1, Slots: 1, Weight: weight, Sleep: s})
		}
		put("slow", "a100", 0.5, Asleep)
		put("fast", "h100", 1, Asleep)
		if got := toWake(q); got != "" {
			t.Errorf("%v: %q is woken for nobody", mode, got)
		}
		first := ask("first")
		submit(t, q, epoch, first)
		if tickets, _ := drain(q, epoch); len(tickets) > 0 {
			t.Fatalf("%v: a replica that sleeps is sent a request", mode)
		}
		if got := toWake(q); got == "" {
			t.Errorf("%v: nobody is woken", mode)
		}
		put("slow", "a100", 0.5, Draining)
		if got := toWake(q); got != "slow" {
			t.Errorf("%v: %q is woken before one that does not sleep yet", mode, got)
		}
		put("slow", "a100", 0.5, Asleep)
		put("fast", "h100", 1, Waking)
		if got := toWake(q); got != "" {
			t.Errorf("%v: %q is woken beside one that wakes", mode, got)
		}
		put("fast", "h100", 1, Away)
		if got := toWake(q); got != "slow" {
			t.Errorf("%v: %q is woken in place of one that cannot be", mode, got)
		}
		put("fast", "h100", 1, Awake)
		if _, names := drain(q, epoch); len(names) != 1 || names[0] != "first@fast" {
			t.Errorf("%v: %v", mode, names)
		}
		submit(t, q, epoch, ask("bound", func(r *Request) { r.Placement = 1 }))
		if got := toWake(q); got != "slow" {
			t.Errorf("%v: %q is woken for a request that requires its class", mode, got)
		}
	}
}

// A few that wait are soon served by who is awake; many are worth a waking.
func TestToWakeForAQueue(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "a", Class: "x", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"a": 1}, 40) // a request takes a second
	q.Put(Replica{ID: "b", Class: "x", Slots: 1, Weight: 1, Sleep: Asleep})
	for n := 1; n <= 20; n++ {
		submit(t, q, epoch, ask(n))
		drain(q, epoch)
		_, woken := q.ToWake(5 * time.Second)
		if waiting := q.Waiting(); woken != (waiting > 5) {
			t.Errorf("with %d waiting woken %t", waiting, woken)
		}
	}
}

// Whatever replicas do in their sleep, none is sent a request that is not awake, and
// none that works loses what it has.
func TestNobodyAsleepIsServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New(Policy{Mode: Mode(rapid.IntRange(0, 1).Draw(t, "mode"))})
		states := map[string]Sleep{}
		now := epoch
		var running []*Ticket
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			switch id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id"); rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				states[id] = Sleep(rapid.IntRange(0, int(Away)).Draw(t, "sleep"))
				q.Put(Replica{ID: id, Class: "x", Slots: 2, KV: 10_000, Sleep: states[id]})
			case 1:
				k := ask(id, func(r *Request) { r.Prompt = 100 })
				if why, _ := q.Submit(k, now); why != Accepted {
					t.Fatal(why)
				}
			case 2:
				if len(running) > 0 {
					q.Finish(running[0], Served, 0, now)
					running = running[1:]
				}
			case 3:
				if id, ok := q.ToWake(time.Second); ok && states[id] != Asleep && states[id] != Draining {
					t.Fatalf("%s is woken, which is %d", id, states[id])
				}
			}
			for k := q.Next(now); k != nil; k = q.Next(now) {
				r, _ := k.Replica()
				if states[r.ID] != Awake {
					t.Fatalf("%s is sent a request, which is %d", r.ID, states[r.ID])
				}
				running = append(running, k)
			}
		}
	})
}
