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
