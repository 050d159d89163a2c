package dispatch

import (
	"testing"
	"time"
)

// waiting returns a ticket as Queue.prepare leaves it.
func waiting(w *waitlist, seq uint64, tenant string, priority, placement int, due time.Time) *Ticket {
	return &Ticket{
		Request: Request{Tenant: tenant, Priority: priority, Placement: placement, Expire: due},
		seq:     seq, due: due, rule: w.placements[placement],
	}
}

func TestWaitlistKeepsItsOrderWithoutReplicas(t *testing.T) {
	w := newWaitlist(Policy{Priorities: 2})
	late := waiting(&w, 1, "a", 0, 0, epoch.Add(time.Minute))
	soon := waiting(&w, 2, "a", 0, 0, epoch.Add(time.Second))
	other := waiting(&w, 3, "b", 0, 0, epoch.Add(time.Hour))
	minor := waiting(&w, 4, "a", 1, 0, epoch)
	for _, k := range []*Ticket{late, soon, other} {
		w.enter(k)
	}
	if n := w.aheadOf(minor); n != 3 {
		t.Errorf("%d are ahead of the least urgent request, want 3", n)
	}
	w.enter(minor)
	if got := w.priorities[0].nextRequests(nil, 3); got[0] != soon || got[1] != other || got[2] != late {
		t.Errorf("tenants do not take turns by deadline: %v", got)
	}
	w.charge(soon.lane.account, 1, "h100")
	if got := w.candidates(w.priorities[0], Slots); len(got) != 1 || got[0] != other {
		t.Errorf("a tenant that was served keeps its turn: %v", got)
	}
	for _, k := range []*Ticket{late, soon, other, minor} {
		w.leave(k)
	}
	if w.waiting != 0 || w.wanted[0] != 0 || w.priorities[0].waiting != 0 || w.priorities[1].waiting != 0 {
		t.Errorf("an empty line counts %+v", w)
	}
}

func TestWaitlistHidesATenantAtItsLimit(t *testing.T) {
	w := newWaitlist(Policy{Tenants: map[string]Limits{"a": {MaxActive: 1}}})
	w.enter(waiting(&w, 1, "a", 0, 0, epoch))
	a := w.tenant("a")
	a.active = 1
	w.park(a)
	if got := w.candidates(w.priorities[0], Slots); len(got) != 0 {
		t.Errorf("%v may be served beyond the limit", got)
	}
	w.limit(map[string]Limits{"a": {MaxActive: 2}})
	if got := w.candidates(w.priorities[0], Slots); len(got) != 1 {
		t.Errorf("%d may be served within a new limit, want 1", len(got))
	}
}
