package dispatch

import (
	"slices"
	"time"
)

// placement is a Placement with its classes as sets.
type placement struct {
	Placement
	longest int // see walk.longest, in round
	round   uint64
}

// maxPlacements limits the placements of a queue in addition to those of its policy.
const maxPlacements = 64

// PlacementOf returns the index of a placement for requests. It adds a placement that the policy
// does not list; ok is false if there are too many of those.
func (q *Queue) PlacementOf(p Placement) (index int, ok bool) { return q.waitlist.placementOf(p) }

// placementOf is Queue.PlacementOf.
func (w *waitlist) placementOf(p Placement) (index int, ok bool) {
	if len(p.Require)+len(p.Prefer) == 0 {
		return 0, true
	}
	index = slices.IndexFunc(w.placements, func(o *placement) bool {
		return slices.Equal(o.Require, p.Require) && slices.Equal(o.Prefer, p.Prefer)
	})
	switch {
	case index >= 0:
		return index, true
	case len(w.placements) >= w.configured+maxPlacements:
		return 0, false
	}
	w.addPlacement(p)
	return len(w.placements) - 1, true
}

func (p *placement) allows(class string) bool {
	return len(p.Require) == 0 || slices.Contains(p.Require, class)
}

// unconstrained reports whether the placement names no hardware.
func (p *placement) unconstrained() bool { return len(p.Require)+len(p.Prefer) == 0 }

// overlaps reports whether both placements allow a common class.
func (p *placement) overlaps(o *placement) bool {
	return len(p.Require) == 0 || len(o.Require) == 0 || slices.ContainsFunc(p.Require, o.allows)
}

// choice is a decision where to serve a request.
type choice struct {
	on *server
	// rank selects the waiting request that takes the slot; 0 is the one that was asked for.
	rank int
	// until, if on is nil, is how long to wait for another replica; zero if only a change can help.
	until time.Time
	// work is the seconds of prefill; hit is the prompt tokens that are in the cache.
	work float64
	hit  int
}

// pick decides where a request goes now, or until when it should wait.
func (q *Queue) pick(t *Ticket, now time.Time) choice {
	switch {
	case q.policy.Mode == Tokens:
		return q.walk.cheapest(t, now)
	case t.avoid != nil:
		return choice{on: q.fleet.retryTarget(t)}
	}
	got := q.choose(t, now)
	if got.on == nil && q.policy.SendAhead > 0 {
		if early := q.ahead(t); early.on != nil {
			return early
		}
	}
	return got
}

// choose places the head of a lane on a slot.
func (q *Queue) choose(head *Ticket, now time.Time) choice {
	p := head.rule
	if len(p.Prefer) > 0 {
		if best := q.fleet.fastest(p, true); best != nil {
			return choice{on: best.free.items[0]}
		}
	}
	best := q.fleet.fastest(p, false)
	if best == nil {
		return choice{}
	}
	var slots int
	var rate float64
	for _, other := range q.fleet.tiers {
		if other.rate > best.rate && other.slots > 0 && p.allows(other.kind.class) {
			slots += other.slots
			rate += float64(other.slots) * other.rate
		}
	}
	if slots == 0 {
		return choice{on: best.free.items[0]}
	}
	// Times for one unit of work on a slow slot and on a fast one. The work of this request would
	// scale both, so it cancels out.
	slow, fast := 1/best.rate, float64(slots)/rate
	if q.theta()*(float64(q.waitlist.competing(head))/rate+fast) >= slow {
		// A request that is further ahead should wait for a fast slot rather than take this one,
		// and a request further behind would wait longer. So no request has both a long wait and
		// slow service.
		return choice{on: best.free.items[0], rank: int(min((slow-fast)*rate, 1e6))}
	}
	// Fast slots that hang would hold the request forever. Once it has waited for as long as the
	// slow slot takes, waiting was not worth it.
	until := head.at.Add(seconds(slow * head.cost))
	if !q.learned.known || !until.After(now) {
		return choice{on: best.free.items[0]}
	}
	return choice{until: until}
}

// theta returns the threshold of the slow-server rule. By default it follows the load: an idle
// fleet should hardly wait for its fast slots, because that gains nothing, and a busy fleet must
// not use slow slots for requests that the fast ones would finish earlier. The line is fitted by
// bench/dispatch -sim.
func (q *Queue) theta() float64 {
	if q.policy.Theta > 0 {
		return q.policy.Theta
	}
	return 1.75 + 8*max(0, q.load.mean-0.8)
}
