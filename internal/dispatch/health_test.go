package dispatch

import (
	"fmt"
	"testing"
	"time"
)

// world serves a steady stream of requests on replicas that need 50 ms and, where
// bad says so, fail within a millisecond. It returns how many of the requests of
// the second half failed, and how many went to the replica "bad".
func world(mode Mode, replicas, bad, n int, fails func(i int) bool) (failed, there int, q *Queue) {
	q = New(Policy{Mode: mode})
	for i := range replicas {
		id := fmt.Sprint("good", i)
		if i < bad {
			id = fmt.Sprint("bad", i)
		}
		q.Put(Replica{ID: id, Class: "h100", Slots: 4})
	}
	type end struct {
		at time.Time
		k  *Ticket
		o  Verdict
	}
	var running []end
	now := epoch
	for i := range n {
		now = now.Add(10 * time.Millisecond)
		for j := 0; j < len(running); j++ {
			if e := running[j]; !e.at.After(now) {
				running = append(running[:j], running[j+1:]...)
				j--
				q.Finish(e.k, e.o, 0, e.at)
			}
		}
		q.Submit(&Ticket{Value: i, Request: Request{Prompt: 100, Expire: now.Add(time.Hour)}}, now)
		for k := q.Next(now); k != nil; k = q.Next(now) {
			r, _ := k.Replica()
			e := end{now.Add(50 * time.Millisecond), k, Served}
			if r.ID[0] == 'b' {
				if i >= n/2 {
					there++
				}
				if fails(i) {
					e.at, e.o = now.Add(time.Millisecond), Failed
					if i >= n/2 {
						failed++
					}
				}
			}
			running = append(running, e)
		}
	}
	return failed, there, q
}

func TestAReplicaThatFailsFastTakesNoTraffic(t *testing.T) {
	for _, mode := range []Mode{Slots, Tokens} {
		failed, _, q := world(mode, 4, 1, 2000, func(int) bool { return true })
		if failed > 20 {
			t.Errorf("mode %d: %d of 1,000 requests failed on the one replica of four that fails", mode, failed)
		}
		if r := q.Rates()["h100"].Rate; r > 25 {
			t.Errorf("mode %d: %g requests/s are learned of slots that serve 20", mode, r)
		}
		// Most of a fleet may fail, as long as the rest serves well.
		if failed, _, _ = world(mode, 4, 3, 2000, func(int) bool { return true }); failed > 60 {
			t.Errorf("mode %d: %d of 1,000 requests failed where three of four replicas fail", mode, failed)
		}
	}
}

func TestAReplicaThatFailsNowAndThenIsEjected(t *testing.T) {
	_, there, _ := world(Slots, 4, 1, 4000, func(i int) bool { return i%3 != 0 })
	if there > 100 {
		t.Errorf("the replica that fails two thirds of the time was given %d of 2,000 requests", there)
	}
}

func TestRequestsThatFailEverywhereEjectNobody(t *testing.T) {
	q := New(Policy{})
	for i := range 4 {
		q.Put(Replica{ID: fmt.Sprint(i), Slots: 1})
	}
	now := epoch
	for range 400 {
		now = now.Add(10 * time.Millisecond)
		submit(t, q, now, ask(0))
		got, _ := drain(q, now)
		for _, k := range got {
			q.Finish(k, Failed, 0, now)
		}
	}
	up := 0
	for _, s := range q.Replicas() {
		if !s.Ejected {
			up++
		}
	}
	if up < 2 {
		t.Errorf("%d of 4 replicas are left by requests that fail on all", up)
	}
}

// Connections that are handed over end after hours and say nothing of the replica.
func TestNeutralEndsEjectNobody(t *testing.T) {
	for _, mode := range []Mode{Slots, Tokens} {
		q := New(Policy{Mode: mode})
		q.Put(Replica{ID: "a", Class: "h100", Slots: 4})
		q.Put(Replica{ID: "b", Class: "h100", Slots: 4})
		teach(q, map[string]float64{"a": 0.1, "b": 0.1}, 50)
		now := epoch
		for range 50 {
			submit(t, q, now, ask(0, func(r *Request) { r.Expire = now.Add(time.Hour) }))
			got, _ := drain(q, now)
			now = now.Add(time.Hour)
			q.Finish(got[0], Neutral, 0, now)
		}
		for _, s := range q.Replicas() {
			if s.Ejected || s.Probation {
				t.Errorf("mode %d: %s is ejected", mode, s.ID)
			}
		}
	}
}

// leftOf returns how many h100 were left at least after one client sent n requests that
// fail wherever they go, under a placement, beside honest ones on the l4.
func leftOf(t *testing.T, mode Mode, slots, rule, n int, honest bool) int {
	q := New(Policy{Mode: mode, Placements: []Placement{{}, {Require: []string{"h100"}}, {Require: []string{"l4"}}, {Prefer: []string{"h100"}}}})
	for i := range 10 {
		class, weight := "h100", 1.0
		if i >= 2 {
			class, weight = "l4", 0.1
		}
		q.Put(Replica{ID: fmt.Sprint(i), Class: class, Slots: slots, Weight: weight})
	}
	now := epoch
	least := 2
	for i := range n {
		now = now.Add(100 * time.Millisecond)
		soon := func(r *Request) { r.Expire = now.Add(time.Hour) }
		submit(t, q, now, ask("bad", placed(rule), soon), ask("good", placed(2), soon))
		if honest && i%4 == 0 {
			submit(t, q, now, ask("good", placed(1), soon))
		}
		for k := q.Next(now); k != nil; k = q.Next(now) {
			o := Served
			if k.Value == "bad" {
				o = Failed
			}
			q.Began(k, now)
			q.Finish(k, o, 0, now.Add(time.Millisecond))
		}
		up := 0
		for _, s := range q.Replicas() {
			if s.Class == "h100" && !s.Ejected {
				up++
			}
		}
		least = min(least, up)
	}
	return least
}

func TestOneClientCannotEjectAClass(t *testing.T) {
	for _, mode := range []Mode{Slots, Tokens} {
		for _, slots := range []int{1, 4} {
			for _, c := range []struct {
				rule   int
				honest bool
			}{{1, false}, {1, true}, {3, false}, {0, true}} {
				if leftOf(t, mode, slots, c.rule, 400, c.honest) == 0 {
					t.Errorf("mode %d, %d slots, %+v: no h100 was left", mode, slots, c)
				}
			}
		}
	}
}

// The only replica of a class that fails all that it is given is the fastest to do
// so, and would draw every request to itself.
func TestTheLastOfAClassThatOnlyFailsIsEjected(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "bad", Class: "h100", Slots: 4, Weight: 10})
	for i := range 4 {
		q.Put(Replica{ID: fmt.Sprint(i), Class: "l4", Slots: 4})
	}
	now, failed := epoch, 0
	for range 400 {
		now = now.Add(10 * time.Millisecond)
		for range 8 {
			submit(t, q, now, ask(0))
		}
		got, _ := drain(q, now)
		for _, k := range got {
			o := Served
			if k.on.ID == "bad" {
				o = Failed
				failed++
			}
			q.Finish(k, o, 0, now.Add(time.Millisecond))
		}
	}
	if failed > 30 {
		t.Errorf("%d requests failed on the one h100", failed)
	}
}
