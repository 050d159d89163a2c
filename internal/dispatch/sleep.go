package dispatch

import "time"

// Sleep says whether a replica's engine holds its model on the GPU.
type Sleep int

// The states of a replica beside awake. Only an awake one gets requests.
const (
	Awake    Sleep = iota
	Waking         // will be awake within the time that waking takes
	Asleep         // can be woken
	Draining       // about to sleep, and at once awake if it is needed
	Away           // cannot be woken for now, or is not known to be awake
)

// ToWake returns the replica that is best woken for the requests that wait, given how
// long waking takes: the fastest one asleep that some of them may use, where no replica
// serves or wakes that they may use, or where those that do would need longer for all
// of them than the waking takes.
func (q *Queue) ToWake(takes time.Duration) (id string, ok bool) {
	for i := range q.waitlist.placements {
		if q.waitlist.wanted[i] == 0 {
			continue
		}
		best, rate, able := q.learned.asleep(q.waitlist.placements[i])
		if best == nil {
			continue
		}
		wait := seconds(float64(q.waitlist.wanted[i]) / max(rate, 1e-9))
		if !able || q.learned.known && rate > 0 && wait > takes {
			return best.ID, true
		}
	}
	return "", false
}

// asleep returns the fastest replica asleep that a placement allows, whether others that
// it allows serve or wake, and what these serve together.
func (l *learned) asleep(p *placement) (best *server, rate float64, able bool) {
	for _, s := range l.fleet.all {
		switch {
		case s.leaving || !p.allows(s.Class):
		case s.Sleep == Asleep || s.Sleep == Draining:
			if best == nil || l.sooner(s, best) {
				best = s
			}
		case s.counted > 0, s.Sleep == Waking:
			able = true
			rate += l.sustains(s)
		}
	}
	return best, rate, able
}

// sooner reports whether to wake one replica rather than another: one that does not
// sleep yet, otherwise the faster one.
func (l *learned) sooner(s, than *server) bool {
	if s.Sleep != than.Sleep {
		return s.Sleep == Draining
	}
	return l.sustains(s) > l.sustains(than)
}

// sustains is how many mean requests a second a replica serves, as far as that is known.
func (l *learned) sustains(s *server) float64 {
	if l.mode == Tokens {
		return s.tier.kind.rate
	}
	return s.tier.rate * float64(s.Slots) / l.averageCost()
}
