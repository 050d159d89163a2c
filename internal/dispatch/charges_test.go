package dispatch

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// A queue that takes over from another one serves the tenants in the order in which that
// one would have gone on.
func TestFairnessOutlivesAQueue(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 14))
		p := Policy{Priorities: 2, Tenants: map[string]Limits{"a": {Weight: 4}, "b": {Weight: 0.5}, "c": {}}}
		former := New(p)
		replica := Replica{ID: "r", Slots: 3}
		former.Put(replica)
		waiting, running := map[*Ticket]bool{}, map[*Ticket]bool{}
		for range 20 + rng.IntN(200) {
			if rng.IntN(5) < 3 || len(running) == 0 {
				k := &Ticket{Request: Request{Tenant: string("abcde"[rng.IntN(5)]), Priority: rng.IntN(2), Expire: epoch.Add(1e9)}}
				k.Value = fmt.Sprint(k.Tenant, len(waiting))
				former.Submit(k, epoch)
				waiting[k] = true
			} else {
				k := slices.SortedFunc(maps.Keys(running), func(a, b *Ticket) int { return int(a.seq) - int(b.seq) })[rng.IntN(len(running))]
				former.Finish(k, Neutral, 0, epoch)
				delete(running, k)
			}
			for k := former.Next(epoch); k != nil; k = former.Next(epoch) {
				delete(waiting, k)
				running[k] = true
			}
		}
		next := New(p)
		next.Put(replica)
		next.Charged(former.Charges())
		inOrder := func(all map[*Ticket]bool) []*Ticket {
			return slices.SortedFunc(maps.Keys(all), func(a, b *Ticket) int { return int(a.seq) - int(b.seq) })
		}
		var adopted []*Ticket
		for _, k := range inOrder(running) {
			a := &Ticket{Request: k.Request, Value: k.Value}
			next.Adopt(a, "r", epoch, epoch, epoch)
			adopted = append(adopted, a)
			former.Finish(k, Neutral, 0, epoch)
		}
		for _, k := range inOrder(waiting) {
			next.Restore(&Ticket{Request: k.Request, Value: k.Value}, epoch)
		}
		for _, a := range adopted {
			next.Finish(a, Neutral, 0, epoch)
		}
		for range len(waiting) {
			a, b := former.Next(epoch), next.Next(epoch)
			if a == nil || b == nil || a.Value != b.Value {
				t.Fatalf("seed %d: next is %v, was to be %v", seed, b, a)
			}
			former.Finish(a, Neutral, 0, epoch)
			next.Finish(b, Neutral, 0, epoch)
		}
	}
}

func TestChargesAreBoundedAndChecked(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	var all []Charge
	for i := range 3 * MaxCharges {
		all = append(all, Charge{Tenant: fmt.Sprint(i), Ahead: float64(i + 1)})
	}
	q.Charged(all)
	if n := len(q.Charges()); n != MaxCharges {
		t.Errorf("%d charges were taken, want %d", n, MaxCharges)
	}
	q.Charged([]Charge{{"a", 0, 0, 2}, {"b", 0, 0, math.NaN()}, {"c", 0, 0, math.Inf(1)}, {"d", 7, 0, 1}, {"e", 0, -1, 1}, {"f", 0, 0, -3}})
	if got := q.Charges(); len(got) != 1 || got[0] != (Charge{"a", 0, 0, 2}) {
		t.Errorf("%v", got)
	}
}
