package dispatch

import "slices"

// kind is what replicas have in common that are expected to be equally fast, and
// how fast they are.
type kind struct {
	class   string
	slices  int
	total   int
	slots   int     // of the replica that was put last
	weight  float64 // expected speed, relative to other kinds
	seed    float64 // speed known from before, in average requests per second; 0 if none
	learned estimate
	// In Tokens mode: the speed that was assumed, what was learned relative to it, and
	// the one that decisions use.
	assumed, speed speed
	told           told
	read, step     fit
	kv             int     // of the replica that was put last
	most, rate     float64 // see sustained
	drags, dragged float64 // sum of its replicas' drags, and of how many
	untried        bool    // see wonder
}

// tier is the replicas that are ranked as equally fast: those of one kind that
// are also, by measurement, equally far from that kind's speed.
type tier struct {
	kind  *kind
	level int // speed is 2^-level of the kind's
	// rate is the speed of one slot in units of cost per second.
	rate  float64
	slots int // usable slots, free or not
	free  heap[*server]
}

// server is the state of one replica.
type server struct {
	Replica
	tier    *tier
	index   int // in tier.free, -1 when it has no free usable slot
	active  int
	counted int // its part of tier.slots
	used    uint64
	leaving bool
	own     estimate
	seen    int // samples, with those of the warm-up
	health  health
	wake    int // in Queue.suspended, -1 when not suspended
	books   books
	shelf   int32 // in Queue.index
	drag    drag
}

// usable is how many slots may be taken now.
func (s *server) usable() int {
	switch {
	case s.leaving || s.wake >= 0 || s.Sleep != Awake:
		return 0
	case s.health.onProbation:
		return min(1, max(0, s.Slots-s.Withheld))
	}
	return max(0, s.Slots-s.Withheld)
}

// idler ranks replicas of one tier: the least filled first, because replicas
// that batch are faster with less in the batch; then the one unused for longest.
func idler(a, b *server) bool {
	if x, y := a.active*b.Slots, b.active*a.Slots; x != y {
		return x < y
	}
	return a.used < b.used
}

func (q *Queue) kindOf(r *Replica) *kind {
	for _, k := range q.kinds {
		if k.class == r.Class && k.slices == r.Slices && k.total == r.Total {
			return k
		}
	}
	k := &kind{class: r.Class, slices: r.Slices, total: r.Total, seed: q.seeds[r.Class].Rate}
	q.kinds = append(q.kinds, k)
	return k
}

func (q *Queue) tierOf(k *kind, level int) *tier {
	for _, t := range q.tiers {
		if t.kind == k && t.level == level {
			return t
		}
	}
	t := &tier{kind: k, level: level}
	t.free = heap[*server]{less: idler, place: func(s *server, at int) { s.index = at }}
	q.tiers = append(q.tiers, t)
	return t
}

// file puts a server where its state says it belongs.
func (q *Queue) file(s *server) {
	usable := s.usable()
	if d := usable - s.counted; d != 0 {
		s.tier.slots += d
		q.slots += d
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

// move gives a server to another tier.
func (q *Queue) move(s *server, to *tier) {
	if s.index >= 0 {
		s.tier.free.remove(s.index)
	}
	s.tier.slots -= s.counted
	q.slots -= s.counted
	s.counted = 0
	s.tier = to
	q.file(s)
}

// Put adds a replica or changes the one of the same ID. A replica that is still
// finishing what it served before it left keeps those slots occupied.
func (q *Queue) Put(r Replica) {
	r.Slots = max(r.Slots, 1)
	if r.Weight <= 0 {
		r.Weight = 1
	}
	s, ok := q.servers[r.ID]
	k := q.kindOf(&r)
	k.weight, k.slots, k.kv = r.Weight, r.Slots, r.KV
	if k.assumed == (speed{}) {
		k.assumed = assume(r.Class, r.Weight*float64(r.Slots))
		k.read, k.step = newFit(2, readMemory), newFit(3, stepMemory)
		q.tell(k)
	}
	q.unknown = true
	if !ok {
		s = &server{Replica: r, index: -1, wake: -1}
		s.tier = q.tierOf(k, 0)
		q.servers[r.ID] = s
		s.shelf, s.drag.factor = q.index.open(), 1
		q.fleet = append(q.fleet, s)
		q.present[r.Class]++
	} else {
		if s.leaving {
			q.present[r.Class]++
		} else if s.Class != r.Class {
			q.absent(s.Class)
			q.present[r.Class]++
		}
		s.leaving = false
		if s.Replica = r; r.Sleep != Awake {
			q.index.clear(s.shelf)
		}
		if s.tier.kind != k {
			s.own, s.drag = estimate{}, drag{factor: 1}
			q.move(s, q.tierOf(k, 0))
		}
	}
	q.file(s)
	q.weighAll()
}

// Drop takes a replica out: it gets no further request and finishes what it has.
func (q *Queue) Drop(id string) {
	s, ok := q.servers[id]
	if !ok || s.leaving {
		return
	}
	s.leaving = true
	q.absent(s.Class)
	q.file(s)
	q.gone(s)
	q.weighAll()
}

func (q *Queue) absent(class string) {
	if q.present[class]--; q.present[class] == 0 {
		delete(q.present, class)
	}
}

func (q *Queue) gone(s *server) {
	if !s.leaving || s.active > 0 {
		return
	}
	if s.wake >= 0 {
		q.suspended.remove(s.wake)
	}
	delete(q.servers, s.ID)
	q.index.close(s.shelf)
	at := slices.Index(q.fleet, s)
	q.fleet = slices.Delete(q.fleet, at, at+1)
}

// State is a replica as it stands.
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

// Replicas lists the replicas, in no order, with those that are finishing.
func (q *Queue) Replicas() []State {
	out := make([]State, 0, len(q.servers))
	for _, s := range q.servers {
		out = append(out, State{
			Replica: s.Replica, Active: s.active, Usable: s.usable(), Rate: s.tier.rate,
			Ejected: s.wake >= 0, Probation: s.health.onProbation, Leaving: s.leaving,
			InFlight: s.books.kv,
		})
	}
	return out
}
