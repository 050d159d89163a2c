package dispatch

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// machine drives a queue with random events and checks after each what must hold
// always: no slot above its limit, every ticket in exactly one place, and no fast
// slot free while a request waits that may use it.
type machine struct {
	q        *Queue
	now      time.Time
	slots    map[string]int // replicas present
	classes  map[string]string
	waiting  map[*Ticket]bool
	running  map[*Ticket]string
	limits   Limits
	ended    map[*Ticket]bool
	capacity map[string]int // slots ever allowed while a replica has requests
	ahead    int            // requests that a replica is sent beyond its slots
}

func newMachine(t *rapid.T) *machine {
	m := &machine{
		now: epoch, slots: map[string]int{}, classes: map[string]string{}, waiting: map[*Ticket]bool{},
		running: map[*Ticket]string{}, ended: map[*Ticket]bool{}, capacity: map[string]int{},
	}
	if rapid.Bool().Draw(t, "limited") {
		m.limits = Limits{MaxActive: rapid.IntRange(1, 4).Draw(t, "max active"), MaxQueue: rapid.IntRange(1, 6).Draw(t, "max queue")}
	}
	m.ahead = rapid.IntRange(0, 2).Draw(t, "send ahead")
	m.q = New(Policy{
		SendAhead: m.ahead,
		Theta:     rapid.SampledFrom([]float64{0, 0.5, 2, 1e6}).Draw(t, "theta"), Priorities: 3,
		MaxQueue:   20,
		Placements: []Placement{{}, {Require: []string{"b"}}},
		Tenants:    map[string]Limits{"": m.limits},
	})
	return m
}

var classes = []string{"a", "b", "c"}

func (m *machine) put(t *rapid.T) {
	id := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "id"))
	class := rapid.SampledFrom(classes).Draw(t, "class")
	slots := rapid.IntRange(1, 3).Draw(t, "slots")
	m.q.Put(Replica{ID: id, Class: class, Slots: slots, Weight: map[string]float64{"a": 4, "b": 2, "c": 1}[class]})
	m.slots[id], m.classes[id] = slots, class
	m.capacity[id] = max(slots+m.ahead, m.active(id))
}

func (m *machine) drop(t *rapid.T) {
	id := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "id"))
	m.q.Drop(id)
	delete(m.slots, id)
}

func (m *machine) submit(t *rapid.T) {
	k := &Ticket{Request: Request{
		Tenant:    rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "tenant"),
		Priority:  rapid.IntRange(-1, 3).Draw(t, "priority"),
		Placement: rapid.IntRange(-1, 2).Draw(t, "placement"),
		Cost:      rapid.SampledFrom([]float64{0, 1, 7}).Draw(t, "cost"),
		Expire:    m.now.Add(time.Minute),
	}}
	if k.Placement == 2 { // none of the policy's, or out of range
		others := []Placement{{Prefer: []string{"c"}}, {Require: []string{"a", "c"}}, {Require: []string{"b"}}}
		k.Placement, _ = m.q.PlacementOf(rapid.SampledFrom(others).Draw(t, "other placement"))
	}
	m.enter(t, k)
}

// enter submits a ticket and notes which one made room for it.
func (m *machine) enter(t *rapid.T, k *Ticket) {
	if why, _ := m.q.Submit(k, m.now); why == Accepted {
		m.waiting[k] = true
	}
	for e := m.q.Evicted(); e != nil; e = m.q.Evicted() {
		if !m.waiting[e] || e.Priority < k.Priority {
			t.Fatalf("a request of priority %d made room for one of %d", e.Priority, k.Priority)
		}
		delete(m.waiting, e)
	}
}

func (m *machine) some(t *rapid.T, set map[*Ticket]bool) *Ticket {
	if len(set) == 0 {
		t.Skip("none")
	}
	var best *Ticket
	pick := rapid.IntRange(0, len(set)-1).Draw(t, "which")
	for range pick + 1 {
		var next *Ticket
		for k := range set {
			if (best == nil || k.seq > best.seq) && (next == nil || k.seq < next.seq) {
				next = k
			}
		}
		best = next
	}
	return best
}

func (m *machine) runningSet() map[*Ticket]bool {
	set := map[*Ticket]bool{}
	for k := range m.running {
		set[k] = true
	}
	return set
}

func (m *machine) active(id string) int {
	n := 0
	for _, on := range m.running {
		if on == id {
			n++
		}
	}
	return n
}

// served is how many requests the replicas serve.
func (m *machine) served() (n int) {
	for _, s := range m.q.Replicas() {
		n += s.Active
	}
	return n
}

func (m *machine) pump(t *rapid.T) {
	for k := m.q.Next(m.now); k != nil; k = m.q.Next(m.now) {
		r, ok := k.Replica()
		switch {
		case !ok:
			t.Fatal("Next returned a ticket without a replica")
		case !m.waiting[k]:
			t.Fatal("a ticket was started that did not wait")
		case m.slots[r.ID] == 0:
			t.Fatalf("replica %s was used after it left", r.ID)
		}
		delete(m.waiting, k)
		m.running[k] = r.ID
		if p := m.q.waitlist.placements[k.Placement]; !p.allows(r.Class) {
			t.Fatalf("a request that requires %v runs on %s", p.Require, r.Class)
		}
	}
}

func (m *machine) check(t *rapid.T) {
	m.pump(t)
	if m.q.Waiting() != len(m.waiting) || m.served() != len(m.running) {
		t.Fatalf("%d wait and %d run, want %d and %d", m.q.Waiting(), m.served(), len(m.waiting), len(m.running))
	}
	m.counts(t)
	tenants := map[string]int{}
	for k := range m.running {
		tenants[k.Tenant]++
	}
	for id, slots := range m.slots {
		if n := m.active(id); n > max(slots+m.ahead, m.capacity[id]) {
			t.Fatalf("replica %s serves %d on %d slots", id, n, slots)
		}
		m.capacity[id] = max(slots+m.ahead, m.active(id))
	}
	m.early(t)
	for name, n := range tenants {
		if m.limits.MaxActive > 0 && n > m.limits.MaxActive {
			t.Fatalf("tenant %q is served %d at once", name, n)
		}
	}
	m.conserves(t, tenants)
}

// early checks that a replica starts what it was sent ahead as soon as a slot is free.
func (m *machine) early(t *rapid.T) {
	total := 0
	for _, s := range m.q.fleet.all {
		total += len(s.early)
		if len(s.early) > m.ahead || len(s.early) > 0 && s.active-len(s.early) < max(s.counted, 1) {
			t.Fatalf("replica %s was sent %d ahead of %d", s.ID, len(s.early), s.active)
		}
		for _, k := range s.early {
			if !k.early || k.on != s || k.speed != 0 {
				t.Fatalf("a request sent ahead to %s is not known as such", s.ID)
			}
		}
	}
	if total != m.q.early {
		t.Fatalf("%d requests are counted as sent ahead, want %d", m.q.early, total)
	}
}

// counts checks that the requests counted as ready are those whose tenants may be
// served.
func (m *machine) counts(t *rapid.T) {
	for urgency, c := range m.q.waitlist.priorities {
		ready, again := make([]int, len(m.q.waitlist.placements)), make([]int, len(m.q.waitlist.placements))
		for k := range m.waiting {
			if k.Priority != urgency || k.lane.account.tenant.parked {
				continue
			}
			ready[k.Placement]++
			if k.avoid != nil {
				again[k.Placement]++
			}
		}
		if !slices.Equal(ready, c.ready) || !slices.Equal(again, c.again) {
			t.Fatalf("%v and %v are counted as ready, want %v and %v", c.ready, c.again, ready, again)
		}
	}
}

// conserves checks that no request waits that may use a free slot of the fastest
// tier that it may use at all: only slower slots are ever held back.
func (m *machine) conserves(t *rapid.T, tenants map[string]int) {
	for k := range m.waiting {
		if m.limits.MaxActive > 0 && tenants[k.Tenant] >= m.limits.MaxActive {
			continue
		}
		p := m.q.waitlist.placements[k.Placement]
		var fastest *tier
		for _, tr := range m.q.fleet.tiers {
			if tr.slots > 0 && p.allows(tr.kind.class) && (fastest == nil || tr.rate > fastest.rate) {
				fastest = tr
			}
		}
		if k.avoid != nil && fastest != nil && fastest.free.len() == 1 && fastest.free.items[0] == k.avoid {
			continue
		}
		if fastest != nil && fastest.free.len() > 0 {
			t.Fatalf("a request waits while %s, the fastest it may use, has a free slot", fastest.free.items[0].ID)
		}
		if w := m.q.LookAgain(); k.avoid == nil && fastest != nil && m.q.fleet.fastest(p, false) != nil && w.IsZero() {
			t.Fatal("a slot is held back and Wake does not tell until when")
		}
	}
}

func TestQueueProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(map[string]func(*rapid.T){
			"put":    m.put,
			"drop":   m.drop,
			"submit": m.submit,
			"many": func(t *rapid.T) {
				for range 5 {
					m.submit(t)
				}
			},
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"wake": func(t *rapid.T) {
				if w := m.q.LookAgain(); w.After(m.now) {
					m.now = w
				}
			},
			"withdraw": func(t *rapid.T) {
				k := m.some(t, m.waiting)
				if !m.q.Withdraw(k) {
					t.Fatal("a waiting ticket cannot be withdrawn")
				}
				if m.q.Withdraw(k) {
					t.Fatal("a ticket is withdrawn twice")
				}
				delete(m.waiting, k)
			},
			"finish": func(t *rapid.T) {
				k := m.some(t, m.runningSet())
				o := Verdict(rapid.IntRange(0, int(Busy)).Draw(t, "outcome"))
				m.q.Finish(k, o, time.Second, m.now)
				m.q.Finish(k, o, time.Second, m.now) // a second time does nothing
				delete(m.running, k)
			},
			"retry": func(t *rapid.T) {
				k := m.some(t, m.runningSet())
				m.q.Retry(k, Unreachable, 0, m.now)
				delete(m.running, k)
				m.waiting[k] = true
			},
			"": m.check,
		})
	})
}

// Every request is served in the end when the fleet stays up.
func TestNothingWaitsForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		m.limits, m.q.waitlist.limits = Limits{}, nil
		for _, c := range classes {
			m.q.Put(Replica{ID: c, Class: c, Slots: 1, Weight: 1})
			m.slots[c] = 1
		}
		for range 20 {
			m.submit(t)
		}
		for step := 0; len(m.waiting)+len(m.running) > 0; step++ {
			if step > 1000 {
				t.Fatalf("%d still wait", len(m.waiting))
			}
			m.pump(t)
			m.now = m.now.Add(100 * time.Millisecond)
			for k := range m.running {
				m.q.Finish(k, Served, 0, m.now)
				delete(m.running, k)
			}
		}
	})
}
