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
		o  Outcome
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
