package dispatch

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// ask makes a ticket that may wait for an hour.
func ask(value any, change ...func(*Request)) *Ticket {
	t := &Ticket{Value: value, Request: Request{Expire: at(time.Hour)}}
	for _, f := range change {
		f(&t.Request)
	}
	return t
}

func submit(t *testing.T, q *Queue, now time.Time, tickets ...*Ticket) {
	t.Helper()
	for _, k := range tickets {
		if why, _ := q.Submit(k, now); why != Accepted {
			t.Fatalf("ticket %v is refused: %v", k.Value, why)
		}
	}
}

// drain starts all that can start and returns "value@replica" in order.
func drain(q *Queue, now time.Time) (tickets []*Ticket, names []string) {
	for k := q.Next(now); k != nil; k = q.Next(now) {
		r, _ := k.Replica()
		tickets = append(tickets, k)
		names = append(names, fmt.Sprintf("%v@%s", k.Value, r.ID))
	}
	return tickets, names
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// teach makes the speeds of the replicas known: n requests on each.
func teach(q *Queue, seconds map[string]float64, n int) {
	now := epoch.Add(-time.Hour)
	for range n {
		var running []*Ticket
		for range seconds {
			k := ask("teach")
			q.Submit(k, now)
		}
		// Time enough passes that a held request takes a slow slot.
		for _, later := range []time.Duration{0, time.Minute} {
			got, _ := drain(q, now.Add(later))
			running = append(running, got...)
		}
		for _, k := range running {
			r, _ := k.Replica()
			q.Finish(k, Served, 0, k.started.Add(time.Duration(seconds[r.ID]*float64(time.Second))))
		}
		now = now.Add(2 * time.Minute)
	}
}

func TestTheFastestFreeSlotIsTakenFirst(t *testing.T) {
	q := New(Policy{Theta: 1e6})
	q.Put(Replica{ID: "slow", Class: "l4", Slots: 1, Weight: 1})
	q.Put(Replica{ID: "fast", Class: "h100", Slots: 1, Weight: 4})
	submit(t, q, epoch, ask("a"), ask("b"))
	_, got := drain(q, epoch)
	expect(t, "order", got, "a@fast", "b@slow")
}

func TestAMeasuredSpeedOutranksTheWeight(t *testing.T) {
	q := New(Policy{Theta: 1e6})
	q.Put(Replica{ID: "x", Class: "x", Slots: 1, Weight: 1})
	q.Put(Replica{ID: "y", Class: "y", Slots: 1, Weight: 4})
	teach(q, map[string]float64{"x": 0.1, "y": 0.2}, 100)
	submit(t, q, epoch, ask("a"))
	_, got := drain(q, epoch)
	expect(t, "order", got, "a@x")
}

func TestASlowSlotIsUsedOnlyWhenWaitingWouldCostMore(t *testing.T) {
	q := New(Policy{Theta: 2})
	q.Put(Replica{ID: "fast", Class: "f", Slots: 1, Weight: 4})
	q.Put(Replica{ID: "slow", Class: "s", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"fast": 0.1, "slow": 0.4}, 100)
	submit(t, q, epoch, ask("a"), ask("b"))
	_, got := drain(q, epoch)
	// b: 2 x (1 x 0.1 + 0.1) = 0.4 s: not less than 0.4 s, so the estimate decides;
	// with a little less load than the threshold it waits.
	if len(got) > 2 || got[0] != "a@fast" {
		t.Fatalf("got %v", got)
	}
	q = New(Policy{Theta: 1})
	q.Put(Replica{ID: "fast", Class: "f", Slots: 1, Weight: 4})
	q.Put(Replica{ID: "slow", Class: "s", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"fast": 0.1, "slow": 0.4}, 100)
	submit(t, q, epoch, ask("a"), ask("b"), ask("c"))
	_, got = drain(q, epoch)
	expect(t, "theta 1, two waiting", got, "a@fast")
	if wake := q.Wake(); wake.Before(at(300*time.Millisecond)) || wake.After(at(500*time.Millisecond)) {
		t.Errorf("Wake is %v after the start, want about 400 ms", wake.Sub(epoch))
	}
	submit(t, q, epoch, ask("d"), ask("e"), ask("f"))
	_, got = drain(q, epoch)
	// With 0.1 s per fast request, whoever is third or later waits longer than the
	// 0.4 s of the slow slot; the first two are better off waiting.
	expect(t, "theta 1, five waiting", got, "e@slow")
}

func TestAHeldRequestTakesTheSlowSlotWhenTheFastOneHangs(t *testing.T) {
	q := New(Policy{Theta: 1})
	q.Put(Replica{ID: "fast", Class: "f", Slots: 1, Weight: 4})
	q.Put(Replica{ID: "slow", Class: "s", Slots: 1, Weight: 1})
	teach(q, map[string]float64{"fast": 0.1, "slow": 0.4}, 100)
	submit(t, q, epoch, ask("a"), ask("b"))
	_, got := drain(q, epoch)
	expect(t, "at once", got, "a@fast")
	_, got = drain(q, q.Wake())
	expect(t, "at the time that Wake told", got, "b@slow")
}

func TestPrioritiesThenDeadlinesDecideTheOrder(t *testing.T) {
	q := New(Policy{Priorities: 3})
	urgent := func(p int) func(*Request) { return func(r *Request) { r.Priority = p } }
	due := func(d time.Duration) func(*Request) { return func(r *Request) { r.Deadline = at(d) } }
	submit(t, q, epoch, ask("batch", urgent(2)), ask("late", urgent(1), due(50*time.Second)), ask("soon", urgent(1), due(20*time.Second)), ask("first", urgent(0)), ask("whenever", urgent(1)))
	q.Put(Replica{ID: "r", Slots: 5})
	_, got := drain(q, epoch)
	expect(t, "order", got, "first@r", "soon@r", "late@r", "whenever@r", "batch@r")
}

func TestTenantsAreServedByTheirWeights(t *testing.T) {
	q := New(Policy{Tenants: map[string]Limits{"big": {Weight: 3}}})
	q.Put(Replica{ID: "r", Slots: 1})
	for i := range 400 {
		submit(t, q, epoch, ask(i, func(r *Request) { r.Tenant = "big" }))
		submit(t, q, epoch, ask(i, func(r *Request) { r.Tenant = "small" }))
	}
	count := map[string]int{}
	for i := range 200 {
		k := q.Next(at(time.Duration(i) * time.Second))
		count[k.Tenant]++
		q.Finish(k, Served, 0, at(time.Duration(i+1)*time.Second))
	}
	if count["big"] < 145 || count["big"] > 155 {
		t.Errorf("of 200 requests %d are of the tenant with three of four shares", count["big"])
	}
}

func TestATenantThatComesBackHasEarnedNoCredit(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	serve := func(name string, n int) (mine int) {
		for range n {
			k := q.Next(epoch)
			if k.Tenant == name {
				mine++
			}
			q.Finish(k, Served, 0, epoch)
		}
		return mine
	}
	tenant := func(name string) func(*Request) { return func(r *Request) { r.Tenant = name } }
	for range 300 {
		submit(t, q, epoch, ask(0, tenant("busy")))
	}
	serve("busy", 100)
	for range 100 {
		submit(t, q, epoch, ask(0, tenant("back")))
	}
	if n := serve("back", 100); n < 45 || n > 55 {
		t.Errorf("the tenant that came back got %d of the next 100", n)
	}
}

func TestATenantsLimitsHold(t *testing.T) {
	q := New(Policy{Tenants: map[string]Limits{"": {MaxActive: 2, MaxQueue: 3}}})
	q.Put(Replica{ID: "r", Slots: 10})
	for i := range 3 {
		submit(t, q, epoch, ask(i, func(r *Request) { r.Tenant = "a" }))
	}
	if why, _ := q.Submit(ask(3, func(r *Request) { r.Tenant = "a" }), epoch); why != TenantFull {
		t.Errorf("the fourth waiting request of a tenant: %v", why)
	}
	submit(t, q, epoch, ask("other", func(r *Request) { r.Tenant = "b" }))
	running, got := drain(q, epoch)
	expect(t, "at once", got, "0@r", "other@r", "1@r")
	q.Finish(running[0], Served, 0, epoch)
	_, got = drain(q, epoch)
	expect(t, "after one of the tenant's is done", got, "2@r")
}

func TestRulesRequireAndPrefer(t *testing.T) {
	q := New(Policy{Theta: 1e6, Placements: []Placement{{}, {Require: []string{"big"}}, {Prefer: []string{"small"}}}})
	q.Put(Replica{ID: "small", Class: "small", Slots: 1, Weight: 1})
	q.Put(Replica{ID: "big", Class: "big", Slots: 1, Weight: 4})
	rule := func(i int) func(*Request) { return func(r *Request) { r.Placement = i } }
	submit(t, q, epoch, ask("prefers", rule(2)))
	_, got := drain(q, epoch)
	expect(t, "prefer", got, "prefers@small")
	submit(t, q, epoch, ask("requires", rule(1)), ask("requires too", rule(1)), ask("anywhere"))
	_, got = drain(q, epoch)
	expect(t, "require", got, "requires@big")
	q.Drop("big")
	if why, _ := q.Submit(ask("again", rule(1)), epoch); why != NoSuchClass {
		t.Errorf("a class that no replica has: %v", why)
	}
}

func TestADeadlineThatCannotBeMetIsRefusedAtOnce(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 1})
	teach(q, map[string]float64{"r": 1}, 50)
	by := func(d time.Duration) func(*Request) { return func(r *Request) { r.Deadline = at(d) } }
	if why, after := q.Submit(ask("a", by(500*time.Millisecond)), epoch); why != TooLate || after < time.Second {
		t.Errorf("less time than one request takes: %v, try again after %v", why, after)
	}
	submit(t, q, epoch, ask("b", by(2*time.Second)))
	drain(q, epoch)
	for i := range 5 {
		submit(t, q, epoch, ask(i, by(20*time.Second)))
	}
	if why, _ := q.Submit(ask("c", by(5*time.Second)), epoch); why != Accepted {
		t.Errorf("a request that overtakes those due later: %v", why)
	}
	if why, _ := q.Submit(ask("d", by(6900*time.Millisecond), func(r *Request) { r.Expire = at(6900 * time.Millisecond) }), epoch); why != Accepted {
		t.Errorf("a second one that still fits: %v", why)
	}
	for i := range 12 {
		submit(t, q, epoch, ask(i, by(15*time.Second)))
	}
	if why, after := q.Submit(ask("e", by(15500*time.Millisecond)), epoch); why != TooLate || after < time.Second {
		t.Errorf("a request behind 16 s of work: %v after %v", why, after)
	}
}

func TestAFailingReplicaIsEjectedAndComesBackOnProbation(t *testing.T) {
	q := New(Policy{Eject: Ejection{Failures: 2, Base: time.Second, Probes: 2}})
	q.Put(Replica{ID: "bad", Slots: 4})
	q.Put(Replica{ID: "good", Slots: 4})
	fail := func(o Verdict) {
		submit(t, q, epoch, ask(0))
		for {
			k := q.Next(epoch)
			if k == nil {
				return
			}
			r, _ := k.Replica()
			if r.ID == "bad" {
				q.Finish(k, o, 0, epoch)
				return
			}
			submit(t, q, epoch, ask(0))
		}
	}
	fail(Unreachable)
	for range 10 {
		submit(t, q, epoch, ask(0))
	}
	_, got := drain(q, epoch)
	for _, name := range got {
		if name == "0@bad" {
			t.Fatal("an ejected replica is used")
		}
	}
	wake := q.Wake()
	if want := at(time.Second); !wake.Equal(want) {
		t.Fatalf("Wake is %v, want the end of the ejection %v", wake, want)
	}
	probe, got := drain(q, wake)
	expect(t, "on probation", got, "0@bad")
	q.Finish(probe[0], Failed, 0, wake)
	if again := q.Wake().Sub(wake); again != 2*time.Second {
		t.Errorf("the second ejection lasts %v, want twice as long as the first", again)
	}
	now := wake.Add(2 * time.Second)
	for range 2 {
		probe, got = drain(q, now)
		expect(t, "one at a time", got, "0@bad")
		q.Finish(probe[0], Served, 0, now)
	}
	_, got = drain(q, now)
	if len(got) < 3 {
		t.Errorf("after two good probes %v, want all slots in use", got)
	}
}

func TestAReplicaThatReturnsKeepsItsBusySlots(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "r", Slots: 2})
	submit(t, q, epoch, ask("a"), ask("b"), ask("c"))
	running, _ := drain(q, epoch)
	q.Drop("r")
	q.Put(Replica{ID: "r", Slots: 2})
	if _, got := drain(q, epoch); len(got) != 0 {
		t.Fatalf("%v started on slots that are busy", got)
	}
	q.Finish(running[0], Served, 0, epoch)
	_, got := drain(q, epoch)
	expect(t, "after one is done", got, "c@r")
}

func TestASlowReplicaOfAFastKindIsRankedByItself(t *testing.T) {
	q := New(Policy{Theta: 1e6})
	for i := range 4 {
		q.Put(Replica{ID: fmt.Sprint(i), Class: "h100", Slots: 1})
	}
	teach(q, map[string]float64{"0": 0.8, "1": 0.1, "2": 0.1, "3": 0.1}, 200)
	submit(t, q, epoch, ask("a"), ask("b"), ask("c"), ask("d"))
	_, got := drain(q, epoch)
	if len(got) != 4 || got[3] != "d@0" {
		t.Errorf("order %v, want the slow replica last", got)
	}
}

// The tree must be ordered and its sizes right whatever is done to it.
func TestTreeMatchesASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tr tree
		var list []*Ticket
		var seq uint64
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				seq++
				k := &Ticket{seq: seq, due: at(time.Duration(rapid.IntRange(0, 5).Draw(t, "due")))}
				tr.insert(k)
				i := 0
				for i < len(list) && earlier(list[i], k) {
					i++
				}
				list = append(list[:i], append([]*Ticket{k}, list[i:]...)...)
			},
			"remove": func(t *rapid.T) {
				if len(list) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				tr.remove(list[i])
				list = append(list[:i], list[i+1:]...)
			},
			"": func(t *rapid.T) {
				if tr.len() != len(list) {
					t.Fatalf("len %d, want %d", tr.len(), len(list))
				}
				for i, k := range list {
					if tr.at(i) != k || tr.rank(k) != i+1 {
						t.Fatalf("rank %d is wrong", i)
					}
				}
				if len(list) > 0 && tr.first() != list[0] {
					t.Fatal("first is wrong")
				}
			},
		})
	})
}

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		ratio     float64
		now, want int
	}{{1, 0, 0}, {0.6, 0, 0}, {0.5, 0, 1}, {0.26, 0, 2}, {0.6, 1, 1}, {1, 1, 0}, {2, 0, -1}, {math.SmallestNonzeroFloat64, 0, 8}} {
		if got := levelOf(c.ratio, c.now); got != c.want {
			t.Errorf("levelOf(%g, %d) = %d, want %d", c.ratio, c.now, got, c.want)
		}
	}
}
