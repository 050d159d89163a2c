package dispatch

import (
	"math"
	"slices"
	"time"
)

const (
	// window is how many of the waiting requests a walk looks at.
	window = 48
	// hold is the backlog, in seconds, up to which a replica is sent more: enough to
	// keep it busy until it is looked at again, and little enough that a request
	// stays free to go elsewhere.
	hold = 0.25
	// look is how soon waiting requests are looked at again.
	look = 10 * time.Millisecond
	// firstOutput is the length of an answer that is assumed before one was seen.
	firstOutput = 200
	// firstAnswers is how many answers that is worth.
	firstAnswers = 20
)

// fade is exp(-x/span).
func fade(x, span float64) float64 { return math.Exp(-max(0, x) / span) }

// cheapest places a request where it costs the fewest seconds: its own, those that
// it takes from the requests already there, and those that it takes from the ones
// to come. Where that replica has enough to do, the request is promised to it and
// keeps waiting, free to be sent elsewhere.
func (w *walk) cheapest(t *Ticket, now time.Time) choice {
	if w.opened == 0 {
		return choice{until: now.Add(look)} // whatever is promised, nothing is sent
	}
	z := w.usual.needOf(t)
	z.waited = now.Sub(t.at).Seconds()
	w.fleet.index.match(t.Blocks)
	crowd := w.crowd()
	if w.late(z, 0) {
		crowd = 1
	}
	best, work := w.least(t, z, crowd)
	if best == nil {
		return choice{}
	}
	if crowd < 1 && w.late(z, best.firstAfter(work)) {
		best, work = w.least(t, z, 1)
	}
	s := best.on
	if best.promised == 0 && best.open && w.hasty(best, z, work) {
		return choice{until: now.Add(look)}
	}
	if best.promised == 0 && best.open {
		if s.KV == 0 || s.active == 0 || w.beyond(best, z, 0) <= 0 {
			return choice{on: s, work: work, hit: w.fleet.index.hits(best.shelf) * BlockTokens}
		}
	}
	if best.open {
		best.open = false // later requests do not overtake
		w.opened--
	}
	best.promised += work
	return choice{until: now.Add(look)}
}

// late reports whether a request misses the objective for its first token, if that comes
// so many seconds from now. Then it counts in full what it takes from others, which may
// still be in time.
func (w *walk) late(z need, seconds float64) bool {
	limit := w.slo.TTFT.Seconds()
	return limit > 0 && z.waited+seconds > limit
}

// least returns the view of the replica on which a request costs the fewest seconds, of
// equal ones the first, and how many seconds that would read for it.
func (w *walk) least(t *Ticket, z need, crowd float64) (best *view, work float64) {
	p := t.rule
	size := min(t.Prompt, w.longest(t.rule))
	preferred := w.prefers(t, size)
	least := math.Inf(1)
	for i := range w.views {
		v := &w.views[i]
		if !w.eligible(v, t, size) || preferred && !slices.Contains(p.Prefer, v.on.Class) {
			continue
		}
		if cost, reads := w.cost(v, z, crowd, least); cost < least {
			best, least, work = v, cost, reads
		}
	}
	return best, work
}

// crowd is how much the seconds count that a request takes from others. In full they give
// the shortest answers on average, but crowd long prompts on few replicas, where tokens
// become slow. An objective for the time between tokens prevents that by itself.
func (w *walk) crowd() float64 {
	if w.slo.TPOT > 0 {
		return 1
	}
	return crowdBase + (1-crowdBase)*min(1, 2*float64(w.waiting)/float64(len(w.fleet.all)))
}

// prefers reports whether a replica of a class that the request prefers is open.
func (w *walk) prefers(t *Ticket, size int) bool {
	p := t.rule
	if len(p.Prefer) == 0 {
		return false
	}
	for i := range w.views {
		if v := &w.views[i]; v.open && slices.Contains(p.Prefer, v.on.Class) && w.eligible(v, t, size) {
			return true
		}
	}
	return false
}

// eligible reports whether a request of a size may ever be sent to the replica.
func (w *walk) eligible(v *view, t *Ticket, size int) bool {
	if p := t.rule; len(p.Require) > 0 && !p.allows(v.on.Class) {
		return false
	}
	if v.on == t.avoid && w.fleet.slots > v.on.counted {
		return false
	}
	return size <= v.takes
}

const (
	// crowdBase is how much the seconds that a request takes from others count while
	// nobody waits; they count more as more wait.
	crowdBase = 0.25
	// fullest bounds the share of reading in what is predicted.
	fullest = 0.95
	// coming is how much the seconds count that it takes from requests to come.
	coming = 3
)

// cost is what a request would cost on a replica, in seconds, and how many of them
// the replica would read. Where it is no less than enough, any sum from enough on may be
// returned for it.
func (w *walk) cost(v *view, z need, crowd, enough float64) (cost, work float64) {
	next := v.base + v.perToken*(z.prompt+z.output/2)
	answer := z.output * next * v.slowed
	cost = v.backlog + v.promised + answer + crowd*v.n*z.output*max(0, next-v.step)
	if cost >= enough {
		return cost, 0 // and all that follows is more
	}
	// The last token is always read: its answer is the first token.
	hit := min(float64(w.fleet.index.hits(v.shelf)*BlockTokens), z.prompt-1)
	work = v.perPrompt + v.perRead*longer(z.prompt-hit, z.prompt)
	cost += work * (1 + v.waiting + crowd*v.streams + v.ahead)
	if v.cache > 0 {
		cost += w.beyond(v, z, z.output) / v.cache * answer
	}
	if w.late(z, v.firstAfter(work)) {
		cost += missed
	}
	if limit := w.slo.TPOT.Seconds(); limit > 0 && cost < enough {
		cost += stretched * max(0, answer-nearly*z.output*limit)
		r := &v.on.books.risk
		cost += missed * (r.of(v.promised+work) - r.of(v.promised))
	}
	return cost, work
}

// beyond is how many tokens the replica's cache lacks for a prompt and so many tokens of its
// answer. What the prompt shares with those in flight is there already.
func (w *walk) beyond(v *view, z need, answer float64) float64 {
	over := v.memory + z.prompt + answer - v.cache
	if over > 0 {
		hit := w.fleet.index.hits(v.shelf)
		over -= min(float64(v.on.books.shared.of(z.blocks[:min(hit, len(z.blocks))])), z.prompt)
	}
	return max(0, over)
}
