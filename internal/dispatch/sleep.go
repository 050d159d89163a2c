package dispatch

import "time"

// Sleep is the state of a replica's sleep mode: whether its engine holds its model on the GPU.
type Sleep int

// The states. Only an awake replica gets requests.
const (
	Awake    Sleep = iota
	Waking         // will be awake after the time that waking takes
	Asleep         // can be woken
	Draining       // about to sleep; awake immediately if it is needed
	Away           // cannot be woken now, or is not known to be awake
)

// ToWake returns the best replica to wake for the waiting requests, given how long waking takes:
// the fastest sleeping one that some of them may use, if no replica that they may use is awake or
// waking, or if those would need longer for all of them than the waking takes.
func (q *Queue) ToWake(takes time.Duration) (id string, ok bool) {
	for i := range q.waitlist.placements {
		if q.waitlist.wanted[i] == 0 {
			continue
		}
		best, rate, served := q.learned.asleep(q.waitlist.placements[i])
		if best == nil {
			continue
		}
		wait := seconds(float64(q.waitlist.wanted[i]) / max(rate, 1e-9))
		if !served || q.learned.known && rate > 0 && wait > takes {
			return best.ID, true
		}
	}
	return "", false
}

// asleep returns the fastest sleeping replica that a placement allows, whether other allowed
// replicas are awake or waking, and the total rate of these.
func (l *learned) asleep(p *placement) (best *server, rate float64, served bool) {
	for _, s := range l.fleet.all {
		switch {
		case s.leaving || !p.allows(s.Class):
		case s.Sleep == Asleep || s.Sleep == Draining:
			if best == nil || l.sooner(s, best) {
				best = s
			}
		case s.counted > 0, s.Sleep == Waking:
			served = true
			rate += l.sustains(s)
		}
	}
	return best, rate, served
}

// sooner reports whether to wake one replica rather than another: one that does not sleep yet,
// otherwise the faster one.
func (l *learned) sooner(s, than *server) bool {
	if s.Sleep != than.Sleep {
		return s.Sleep == Draining
	}
	return l.sustains(s) > l.sustains(than)
}

// sustains returns how many mean requests per second a replica serves, as far as that is known.
func (l *learned) sustains(s *server) float64 {
	if l.mode == Tokens {
		return s.tier.kind.rate
	}
	return s.tier.rate * float64(s.Slots) / l.averageCost()
}
