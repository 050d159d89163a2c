package dispatch

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func by(name string) func(*Request) { return func(r *Request) { r.Tenant = name } }

func placed(at int) func(*Request) { return func(r *Request) { r.Placement = at } }

// serve lets the one replica serve n requests of a second each, from now on, and
// returns how many of them were each tenant's.
func serve(q *Queue, now time.Time, n int) map[string]int {
	count := map[string]int{}
	for range n {
		k := q.Next(now)
		if k == nil {
			break
		}
		count[k.Tenant]++
		now = now.Add(time.Second)
		q.Finish(k, Served, 0, now)
	}
	return count
}

func TestADeclaredCostBuysNoTurns(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	for i := range 300 {
		submit(t, q, epoch, ask(i, by("honest"), func(r *Request) { r.Cost = 1 }))
		submit(t, q, epoch, ask(i, by("cheat"), func(r *Request) { r.Cost = 1e-6 }))
	}
	if count := serve(q, epoch, 200); count["cheat"] > 110 {
		t.Errorf("of 200 turns %d are the cheat's", count["cheat"])
	}
}

func TestOneAbsurdCostChangesNoRate(t *testing.T) {
	for _, first := range []bool{true, false} {
		q := New(Policy{Theta: 1e6})
		q.Put(Replica{ID: "slow", Class: "t4", Slots: 1, Weight: 1})
		q.Put(Replica{ID: "fast", Class: "h100", Slots: 1, Weight: 4})
		if !first {
			teach(q, map[string]float64{"slow": 0.4, "fast": 0.1}, 50)
		}
		for range 2 {
			submit(t, q, epoch, ask("absurd", func(r *Request) { r.Cost = 1e12 }))
		}
		got, _ := drain(q, epoch)
		for _, k := range got {
			q.Finish(k, Served, 0, epoch.Add(400*time.Millisecond))
		}
		teach(q, map[string]float64{"slow": 0.4, "fast": 0.1}, 50)
		for class, want := range map[string]float64{"t4": 2.5, "h100": 10} {
			if got := q.Rates()[class].Rate; math.Abs(got/want-1) > 0.2 {
				t.Errorf("absurd cost first %v: %s is learned as %g/s, want %g", first, class, got, want)
			}
		}
	}
}

// Samples that cannot be true are learned, because nothing is known that
// contradicts them, but are not told to others.
func TestPublishedRatesArePlausible(t *testing.T) {
	q := New(Policy{Theta: 1e6})
	q.Put(Replica{ID: "slow", Class: "t4", Slots: 1, Weight: 1})
	q.Put(Replica{ID: "fast", Class: "h100", Slots: 1, Weight: 4})
	teach(q, map[string]float64{"slow": 1e-7, "fast": 0.1}, 60)
	if got := q.Rates()["t4"].Rate; got > 2.5*maxImplied*1.01 {
		t.Errorf("a t4 is published as serving %g/s where an h100 serves 10/s", got)
	}
}

func TestAPoliteTenantIsNotTooLateBehindAGreedyOne(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	teach(q, map[string]float64{"r": 0.1}, 50)
	due := func(d time.Duration) func(*Request) { return func(r *Request) { r.Deadline, r.Expire = at(d), at(d) } }
	for i := range 601 {
		submit(t, q, epoch, ask(i, by("greedy"), due(time.Hour)))
	}
	submit(t, q, epoch, ask("p", by("polite"), due(30*time.Second)))
	submit(t, q, epoch, ask("p", by("polite"), due(30*time.Second)))
	if why, _ := q.Submit(ask("g", by("greedy"), due(time.Minute)), epoch); why != Accepted {
		t.Errorf("the greedy tenant's urgent request, first of its own: %v", why)
	}
	if why, _ := q.Submit(ask("g", by("greedy"), due(time.Hour), func(r *Request) { r.Expire = at(time.Hour) }), epoch); why != Accepted {
		t.Errorf("a request that may wait for an hour: %v", why)
	}
	late := at(30 * time.Second)
	for i := range 200 {
		if why, _ := q.Submit(ask(i, by("polite"), due(30*time.Second)), epoch); why == TooLate {
			// Two tenants take turns: 150 of its own are 30 s.
			if i < 140 {
				t.Errorf("the polite tenant's request %d is too late for %v", i, late)
			}
			return
		}
	}
	t.Error("20 s of its own work and as much of another's in 30 s was accepted")
}

func TestTenantsOfThePastAreNotAhead(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	teach(q, map[string]float64{"r": 0.1}, 50)
	for i := range 900 {
		submit(t, q, epoch, ask(i, by(fmt.Sprint(i))))
		for _, k := range first(drain(q, epoch)) {
			q.Finish(k, Served, 0, epoch.Add(100*time.Millisecond))
		}
	}
	for i := range 900 {
		submit(t, q, epoch, ask(i, by("0")))
	}
	if why, _ := q.Submit(ask("new", by("new"), func(r *Request) { r.Expire = at(2 * time.Second) }), epoch); why != Accepted {
		t.Errorf("a new tenant, next in turn: %v", why)
	}
}

func first(k []*Ticket, _ []string) []*Ticket { return k }

func TestAFullQueueMakesRoomForTheMoreUrgent(t *testing.T) {
	q := New(Policy{Priorities: 2, MaxQueue: 10})
	batch := func(r *Request) { r.Priority = 1 }
	for i := range 10 {
		submit(t, q, epoch, ask(i, batch, by("greedy")))
	}
	submit(t, q, epoch, ask("urgent"))
	if e := q.Evicted(); e == nil || e.Value != 9 || q.Evicted() != nil || q.Waiting() != 10 {
		t.Fatalf("evicted %v, %d wait; want the batch request that is due last", e, q.Waiting())
	}
	submit(t, q, epoch, ask("polite", batch, by("polite")))
	if e := q.Evicted(); e == nil || e.Value != 8 {
		t.Errorf("evicted %v; want the last request of the tenant with nine waiting", e)
	}
	if why, _ := q.Submit(ask("more", batch, by("greedy")), epoch); why != QueueFull || q.Evicted() != nil {
		t.Errorf("another request of the tenant that fills the queue: %v", why)
	}
}

// A queue that is full of requests to be tried again is full of batch work as well.
func TestRetriesMakeRoomForTheMoreUrgent(t *testing.T) {
	q := New(Policy{Priorities: 2, MaxQueue: 2})
	q.Put(Replica{ID: "dead", Slots: 2})
	batch := func(r *Request) { r.Priority = 1 }
	submit(t, q, epoch, ask("first", batch), ask("second", batch))
	started, _ := drain(q, epoch)
	for _, k := range started {
		q.Retry(k, Unreachable, 0, epoch)
	}
	if why, _ := q.Submit(ask("batch", batch), epoch); why != QueueFull || q.Evicted() != nil {
		t.Errorf("another batch request: %v, want a full queue", why)
	}
	submit(t, q, epoch, ask("urgent"))
	if e := q.Evicted(); e == nil || e.Value != "second" || q.Evicted() != nil || q.Waiting() != 2 {
		t.Errorf("evicted %v, %d wait; want the retry that came last", e, q.Waiting())
	}
}

func TestATenantAtItsLimitMakesRoom(t *testing.T) {
	for _, mode := range []Mode{Slots, Tokens} {
		q := New(Policy{Mode: mode, Priorities: 2, MaxQueue: 10, Tenants: map[string]Limits{"a": {MaxActive: 1}}})
		q.Put(Replica{ID: "r", Class: "h100", Slots: 4})
		submit(t, q, epoch, ask("running", by("a")))
		drain(q, epoch)
		for i := range 10 {
			submit(t, q, epoch, ask(i, by("a")))
		}
		_, got := drain(q, epoch)
		expect(t, "of the tenant at its limit", got)
		submit(t, q, epoch, ask("other", by("b")))
		if e := q.Evicted(); e == nil || e.Value != 9 {
			t.Errorf("mode %d: evicted %v; want the last request of the tenant at its limit", mode, e)
		}
		_, got = drain(q, epoch)
		expect(t, "of the other tenant", got, "other@r")
	}
}

func TestAMoreUrgentRequestTakesThePlaceOfATenantAtItsLimit(t *testing.T) {
	q := New(Policy{Priorities: 2, MaxQueue: 10, Tenants: map[string]Limits{"a": {MaxActive: 1}}})
	q.Put(Replica{ID: "r", Slots: 4})
	batch := func(r *Request) { r.Priority = 1 }
	submit(t, q, epoch, ask("running", by("a"), batch))
	drain(q, epoch)
	for i := range 10 {
		submit(t, q, epoch, ask(i, by("a"), batch))
	}
	submit(t, q, epoch, ask("urgent", by("a")))
	if e := q.Evicted(); e == nil || e.Value != 9 {
		t.Errorf("evicted %v; want the batch request that is due last", e)
	}
}

func TestATenantAtItsLimitMakesNobodyLate(t *testing.T) {
	for _, urgency := range []int{0, 1} {
		q := New(Policy{Priorities: 2, Tenants: map[string]Limits{"a": {MaxActive: 1}}})
		q.Put(Replica{ID: "r", Slots: 4})
		teach(q, map[string]float64{"r": 1}, 50)
		at := func(p int) func(*Request) { return func(r *Request) { r.Priority = p } }
		submit(t, q, epoch, ask("running", by("a"), at(urgency)))
		drain(q, epoch)
		for i := range 200 {
			submit(t, q, epoch, ask(i, by("a"), at(urgency)))
		}
		soon := func(r *Request) { r.Expire = epoch.Add(2 * time.Second) }
		submit(t, q, epoch, ask("other", by("b"), at(1), soon))
		_, got := drain(q, epoch)
		expect(t, "beside a tenant at its limit", got, "other@r")
	}
}

func TestATenantAtItsLimitPushesNobodyOntoASlowSlot(t *testing.T) {
	q := New(Policy{Theta: 1, Tenants: map[string]Limits{"a": {MaxActive: 1}}})
	q.Put(Replica{ID: "fast", Class: "f", Slots: 1, Weight: 4})
	q.Put(Replica{ID: "slow", Class: "s", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"fast": 0.1, "slow": 0.4}, 100)
	for i := range 20 {
		submit(t, q, epoch, ask(i, by("a")))
	}
	submit(t, q, epoch, ask("other", by("b")))
	_, got := drain(q, epoch)
	expect(t, "one fast slot, taken by a tenant at its limit", got, "0@fast")
}

func TestAQueueForOtherHardwareMakesNobodyLate(t *testing.T) {
	rules := []Placement{{}, {Require: []string{"h100"}}, {Require: []string{"l4"}}}
	soon := func(r *Request) { r.Expire = at(30 * time.Second) }
	for _, c := range []struct {
		what   string
		mode   Mode
		placed int // the rule of the small request
	}{
		{"its own class is idle", Slots, 2},
		{"its own class is idle, tokens", Tokens, 2},
		{"anywhere, one class idle", Slots, 0},
	} {
		q := New(Policy{Mode: c.mode, Priorities: 2, Placements: rules})
		q.Put(Replica{ID: "h", Class: "h100", Slots: 4, Weight: 1})
		q.Put(Replica{ID: "l", Class: "l4", Slots: 4, Weight: 1})
		q.Seed(map[string]Rate{"h100": {Rate: 0.25}, "l4": {Rate: 0.25}})
		prompt := func(r *Request) { r.Prompt = 20_000 }
		for i := range 484 {
			submit(t, q, epoch, ask(i, placed(1), prompt))
			drain(q, epoch)
		}
		submit(t, q, epoch, ask("small", placed(c.placed), func(r *Request) { r.Priority = 1 }, soon))
		_, got := drain(q, epoch)
		expect(t, c.what, got, "small@l")
		// Its own class busy, and none who waits for it.
		for i := range 3 {
			submit(t, q, epoch, ask(i, placed(2)))
			drain(q, epoch)
		}
		if why, _ := q.Submit(ask("next", placed(2), func(r *Request) { r.Priority = 1 }, soon), epoch); why != Accepted {
			t.Errorf("%s: first in the queue for its own class: %v", c.what, why)
		}
		if why, _ := q.Submit(ask("large", placed(1), func(r *Request) { r.Priority = 1 }, soon), epoch); why != TooLate {
			t.Errorf("%s: behind 480 that wait for the same class: %v", c.what, why)
		}
	}
}

func TestAQueueForOtherHardwareTakesNoSlowSlot(t *testing.T) {
	q := New(Policy{Theta: 1, Placements: []Placement{{}, {Require: []string{"f", "s"}}, {Require: []string{"h100"}}}})
	q.Put(Replica{ID: "fast", Class: "f", Slots: 1, Weight: 4})
	q.Put(Replica{ID: "slow", Class: "s", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"fast": 0.1, "slow": 0.4}, 100)
	q.Put(Replica{ID: "other", Class: "h100", Slots: 1, Weight: 8})
	for i := range 20 {
		submit(t, q, epoch, ask(i, placed(2)))
	}
	submit(t, q, epoch, ask("a", placed(1)), ask("b", placed(1)))
	_, got := drain(q, epoch)
	expect(t, "two where twenty wait for other hardware", got, "0@other", "a@fast")
}

func TestInventedTenantsDisplaceNoneThatIsNamed(t *testing.T) {
	q := New(Policy{Tenants: map[string]Limits{"named": {MaxQueue: 1, Weight: 3}}})
	for i := range maxTenants {
		q.waitlist.tenant(fmt.Sprint(i))
	}
	submit(t, q, epoch, ask("a", by("invented")), ask("b", by("named")))
	if n := q.waitlist.tenants["named"]; n == nil || n.queued != 1 || n.limits.Weight != 3 || len(q.waitlist.tenants) != maxTenants+2 {
		t.Errorf("the tenant that is named is kept as %+v, of %d", n, len(q.waitlist.tenants))
	}
	if why, _ := q.Submit(ask("c", by("named")), epoch); why != TenantFull {
		t.Errorf("beyond the limit of the tenant that is named: %v", why)
	}
}

func TestTurnsAreTakenPerPlacement(t *testing.T) {
	q := New(Policy{Placements: []Placement{{}, {Require: []string{"t4"}}, {Require: []string{"h100"}}}})
	q.Put(Replica{ID: "t", Class: "t4", Slots: 1})
	for i := range 2000 {
		submit(t, q, epoch, ask(i, by("x"), placed(1)))
	}
	serve(q, epoch, 2000)
	q.Drop("t")
	q.Put(Replica{ID: "h", Class: "h100", Slots: 1})
	for i := range 500 {
		submit(t, q, epoch, ask(i, by("z"), placed(2)))
	}
	serve(q, epoch, 100)
	for i := range 100 {
		submit(t, q, epoch, ask(i, by("y"), placed(2)))
		submit(t, q, epoch, ask(i, by("x"), placed(2)))
	}
	count := serve(q, epoch, 90)
	for _, name := range []string{"x", "y", "z"} {
		if n := count[name]; n < 28 || n > 32 {
			t.Errorf("of 90 turns on the h100 %s got %d", name, n)
		}
	}
}

func TestBlockedRetriesBlockNoOther(t *testing.T) {
	for _, mode := range []Mode{Slots, Tokens} {
		q := New(Policy{Mode: mode, Placements: []Placement{{}, {Require: []string{"h100"}}, {Require: []string{"t4"}}}})
		q.Put(Replica{ID: "h", Class: "h100", Slots: 100})
		q.Put(Replica{ID: "t", Class: "t4", Slots: 100})
		for i := range 80 {
			submit(t, q, epoch, ask(i, placed(1)))
		}
		submit(t, q, epoch, ask("t", placed(2)))
		running, _ := drain(q, epoch)
		now := epoch
		for _, k := range running {
			now = now.Add(time.Millisecond)
			if k.Value == "t" {
				q.Retry(k, Neutral, 0, now)
			} else {
				q.Retry(k, Unreachable, 0, now)
			}
		}
		_, got := drain(q, now)
		expect(t, "of 80 that wait for a dead h100 and one that could use a t4", got, "t@t")
	}
}

func TestEvidenceGrowsWithSamplesWhateverTheSlots(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Class: "h100", Slots: 256})
	now := epoch
	for range 40 {
		submit(t, q, now, ask(0))
		got, _ := drain(q, now)
		now = now.Add(time.Second)
		q.Finish(got[0], Served, 0, now)
	}
	if n := q.Rates()["h100"].Samples; n < 30 {
		t.Errorf("40 requests are evidence worth %g", n)
	}
}
