package dispatch

import (
	"slices"
	"time"
)

// fleet is the set of replicas: by kind, by speed, and with the expected content of their caches.
// It does not know the waiting requests.
type fleet struct {
	servers   map[string]*server
	all       []*server // the same servers, in the order in which they were added
	suspended heap[*server]
	tiers     []*tier
	kinds     []*kind
	present   map[string]int // replicas by class
	slots     int            // usable slots, free or not
	ejection  Ejection
	index     index

	refreshed time.Time // when the speeds of the kinds were last computed
	stale     bool      // replicas or what was known of them have changed since then
}

func newFleet(e Ejection) fleet {
	f := fleet{ejection: e.defaulted(), index: newIndex(), servers: map[string]*server{}, present: map[string]int{}}
	f.suspended = heap[*server]{
		less:  func(a, b *server) bool { return a.health.until.Before(b.health.until) },
		place: func(s *server, at int) { s.suspension = at },
	}
	return f
}

// kindOf returns the kind of a replica.
func (f *fleet) kindOf(r *Replica) *kind {
	for _, k := range f.kinds {
		if k.class == r.Class && k.slices == r.Slices && k.total == r.Total {
			return k
		}
	}
	k := &kind{class: r.Class, slices: r.Slices, total: r.Total}
	f.kinds = append(f.kinds, k)
	return k
}

func (f *fleet) tierOf(k *kind, level int) *tier {
	for _, t := range f.tiers {
		if t.kind == k && t.level == level {
			return t
		}
	}
	t := &tier{kind: k, level: level}
	t.free = heap[*server]{less: lessLoaded, place: func(s *server, at int) { s.index = at }}
	f.tiers = append(f.tiers, t)
	return t
}

// refile puts a server where it belongs by its state.
func (f *fleet) refile(s *server) {
	usable := s.usable()
	if d := usable - s.counted; d != 0 {
		s.tier.slots += d
		f.slots += d
		s.counted = usable
	}
	switch may := s.active < usable; {
	case may && s.index < 0:
		s.tier.free.push(s)
	case may:
		s.tier.free.fix(s.index)
	case s.index >= 0:
		s.tier.free.remove(s.index)
	}
}

// move moves a server to another tier.
func (f *fleet) move(s *server, to *tier) {
	if s.index >= 0 {
		s.tier.free.remove(s.index)
	}
	s.tier.slots -= s.counted
	f.slots -= s.counted
	s.counted = 0
	s.tier = to
	f.refile(s)
}

func (f *fleet) removeClass(class string) {
	if f.present[class]--; f.present[class] == 0 {
		delete(f.present, class)
	}
}

func (f *fleet) removeIfDone(s *server) {
	if !s.leaving || s.active > 0 {
		return
	}
	if s.suspension >= 0 {
		f.suspended.remove(s.suspension)
	}
	delete(f.servers, s.ID)
	f.index.close(s.prefixes)
	at := slices.Index(f.all, s)
	f.all = slices.Delete(f.all, at, at+1)
}

// put adds a replica of a kind or updates the one with the same ID.
func (f *fleet) put(r Replica, k *kind) {
	f.stale = true
	s, ok := f.servers[r.ID]
	if !ok {
		f.add(r, k)
		return
	}
	if s.leaving {
		f.present[r.Class]++
	} else if s.Class != r.Class {
		f.removeClass(s.Class)
		f.present[r.Class]++
	}
	s.leaving = false
	if s.Replica = r; r.Sleep != Awake {
		f.index.clear(s.prefixes)
	}
	if s.tier.kind != k {
		s.own, s.slowdown = estimate{}, slowdown{factor: 1}
		f.move(s, f.tierOf(k, 0))
	}
	f.refile(s)
}

func (f *fleet) add(r Replica, k *kind) {
	s := &server{
		Replica: r, index: -1, suspension: -1, tier: f.tierOf(k, 0), prefixes: f.index.open(),
		slowdown: slowdown{factor: 1},
	}
	f.servers[r.ID] = s
	f.all = append(f.all, s)
	f.present[r.Class]++
	f.refile(s)
}

// drop makes a replica leave once it has finished its requests.
func (f *fleet) drop(id string) {
	s, ok := f.servers[id]
	if !ok || s.leaving {
		return
	}
	s.leaving = true
	f.removeClass(s.Class)
	f.refile(s)
	f.removeIfDone(s)
}

// fastest returns the fastest tier that has a free slot and that the placement allows.
func (f *fleet) fastest(p *placement, preferred bool) *tier {
	var best *tier
	for _, t := range f.tiers {
		if t.free.len() == 0 || (best != nil && t.rate <= best.rate) {
			continue
		}
		if preferred && !slices.Contains(p.Prefer, t.kind.class) {
			continue
		}
		if p.allows(t.kind.class) {
			best = t
		}
	}
	return best
}

// retryTarget places a retry: on the fastest free slot of another replica, and on the same replica
// only if there is no other.
func (f *fleet) retryTarget(t *Ticket) *server {
	p := t.rule
	var best *server
	others := 0
	for _, tr := range f.tiers {
		if !p.allows(tr.kind.class) {
			continue
		}
		others += tr.slots
		if tr == t.avoid.tier {
			others -= t.avoid.counted
		}
		for _, s := range tr.free.items[:min(2, tr.free.len())] {
			if s != t.avoid && (best == nil || tr.rate > best.tier.rate) {
				best = s
			}
		}
	}
	if best == nil && others == 0 && t.avoid.index >= 0 && p.allows(t.avoid.Class) {
		return t.avoid
	}
	return best
}

// capacity returns totals of what the placement may use: the number of tiers with a free slot, the
// speed of all slots, and the speed of the fastest slot.
func (f *fleet) capacity(p *placement) (free int, rate, best float64, present bool) {
	for _, t := range f.tiers {
		if !p.allows(t.kind.class) {
			continue
		}
		present = present || f.present[t.kind.class] > 0
		if t.slots == 0 {
			continue
		}
		rate += float64(t.slots) * t.rate
		best = max(best, t.rate)
		if t.free.len() > 0 {
			free++
		}
	}
	return free, rate, best, present
}

// tokenCapacity is capacity in Tokens mode: mean requests per second, and the speed at which the
// fastest kind would return the first token of a request with a given cost and prompt. The length
// of the answer is a guess, so no request is refused because of it.
func (f *fleet) tokenCapacity(p *placement, cost, prompt float64) (rate, best float64) {
	for _, s := range f.all {
		k := s.tier.kind
		if s.counted == 0 || !p.allows(k.class) || k.rate == 0 {
			continue
		}
		rate += k.rate
		best = max(best, cost/k.speed.prefillTime(prompt, prompt))
	}
	return rate, best
}

// State is the current state of a replica.
type State struct {
	Replica
	Active    int
	Usable    int     // slots that may be used now; 0 while ejected or leaving
	Rate      float64 // expected units of cost per second and slot
	Ejected   bool
	Probation bool
	Leaving   bool
	InFlight  int // tokens of prompts and answers in flight, in Tokens mode
}

// Replicas lists the replicas, including those that are finishing, in no particular order.
func (q *Queue) Replicas() []State {
	out := make([]State, 0, len(q.fleet.servers))
	for _, s := range q.fleet.servers {
		out = append(out, State{
			Replica: s.Replica, Active: s.active, Usable: s.usable(), Rate: s.tier.rate,
			Ejected: s.suspension >= 0, Probation: s.health.onProbation, Leaving: s.leaving,
			InFlight: s.books.kv,
		})
	}
	return out
}
