package dispatch

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Who waits is what is counted by hand over submissions, grants, retries and leavings.
func TestWaitsAreThoseThatWait(t *testing.T) {
	type key struct {
		tenant   string
		priority int
	}
	rng := rand.New(rand.NewPCG(7, 7))
	now := time.Unix(0, 0)
	q := New(Policy{Priorities: 3, Tenants: map[string]Limits{"b": {MaxActive: 1}}})
	q.Put(Replica{ID: "r", Slots: 2})
	q.Put(Replica{ID: "s", Slots: 1})
	var waiting, active []*Ticket
	for range 3000 {
		now = now.Add(time.Second)
		switch n := rng.IntN(4); {
		case n == 0 && len(active) > 0:
			last := active[len(active)-1]
			active = active[:len(active)-1]
			if rng.IntN(3) == 0 {
				q.Retry(last, Unreachable, 0, now)
				waiting = append(waiting, last)
			} else {
				q.Finish(last, Neutral, 0, now)
			}
		case n == 1 && len(waiting) > 0:
			if one := waiting[0]; q.Withdraw(one) {
				waiting = waiting[1:]
			}
		default:
			one := &Ticket{Request: Request{Tenant: string(rune('a' + rng.IntN(3))), Priority: rng.IntN(3), Cost: 1}}
			if refused, _ := q.Submit(one, now); refused == Accepted {
				waiting = append(waiting, one)
			}
		}
		for next := q.Next(now); next != nil; next = q.Next(now) {
			active = append(active, next)
			for i, one := range waiting {
				if one == next {
					waiting = append(waiting[:i:i], waiting[i+1:]...)
					break
				}
			}
		}
		want := map[key]int{}
		for _, one := range waiting {
			want[key{one.Tenant, one.Priority}]++
		}
		q.Waits(func(tenant string, priority, requests int) {
			k := key{tenant, priority}
			if want[k] != requests {
				t.Fatalf("%v: %d wait, want %d", k, requests, want[k])
			}
			delete(want, k)
		})
		if len(want) > 0 {
			t.Fatalf("left out: %v", want)
		}
	}
}
