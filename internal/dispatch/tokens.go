package dispatch

import (
	"math"
	"slices"
	"time"
)

const (
	// window is the number of waiting requests that a walk examines.
	window = 48
	// maxBacklog is the backlog in seconds up to which a replica is sent more requests: enough to keep it
	// busy until the next walk, and so little that requests remain free to go elsewhere.
	maxBacklog = 0.25
	// recheckInterval is the interval at which waiting requests are examined again.
	recheckInterval = 10 * time.Millisecond
	// defaultOutput is the assumed length of an answer before any was seen.
	defaultOutput = 200
	// defaultOutputWeight is how many answers that assumption counts as.
	defaultOutputWeight = 20
)

// decay is exp(-x/span).
func decay(x, span float64) float64 { return math.Exp(-max(0, x) / span) }

// cheapest places a request where it costs the fewest seconds: its own, those of the requests
// already there that it delays, and those of future requests. If that replica has enough to do, the
// request is promised to it but keeps waiting, free to be sent elsewhere.
func (w *walk) cheapest(t *Ticket, now time.Time) choice {
	if w.open == 0 {
		return choice{until: now.Add(recheckInterval)} // nothing can be sent, whatever is promised
	}
	z := w.averages.needOf(t)
	z.waited = now.Sub(t.at).Seconds()
	w.fleet.index.match(t.Blocks)
	delayWeight := w.delayWeight()
	if w.late(z, 0) {
		delayWeight = 1
	}
	best, work := w.leastCost(t, z, delayWeight)
	if best == nil {
		return choice{}
	}
	if delayWeight < 1 && w.late(z, best.firstAfter(work)) {
		best, work = w.leastCost(t, z, 1)
	}
	s := best.on
	if best.promised == 0 && best.open && w.shouldDefer(best, z, work) {
		return choice{until: now.Add(recheckInterval)}
	}
	if best.promised == 0 && best.open {
		if s.KV == 0 || s.active == 0 || w.overflow(best, z, 0) <= 0 {
			return choice{on: s, work: work, hit: w.fleet.index.hits(best.prefixes) * BlockTokens}
		}
	}
	if best.open {
		best.open = false // later requests must not overtake
		w.open--
	}
	best.promised += work
	return choice{until: now.Add(recheckInterval)}
}

// late reports whether a request misses the objective for its first token if that comes after so
// many seconds. Then the delays that it causes for others count in full, because these may still be
// in time.
func (w *walk) late(z need, seconds float64) bool {
	limit := w.slo.TTFT.Seconds()
	return limit > 0 && z.waited+seconds > limit
}

// leastCost returns the view of the replica on which a request costs the fewest seconds, the first of
// equal ones, and the seconds of prefill there.
func (w *walk) leastCost(t *Ticket, z need, delayWeight float64) (best *view, work float64) {
	p := t.rule
	size := min(t.Prompt, w.longest(t.rule))
	preferred := w.prefers(t, size)
	least := math.Inf(1)
	for i := range w.views {
		v := &w.views[i]
		if !w.eligible(v, t, size) || preferred && !slices.Contains(p.Prefer, v.on.Class) {
			continue
		}
		if cost, prefill := w.cost(v, z, delayWeight, least); cost < least {
			best, least, work = v, cost, prefill
		}
	}
	return best, work
}

// delayWeight returns the weight of the seconds that a request takes from others. At full weight answers
// are shortest on average, but long prompts crowd on few replicas, where tokens become slow. An
// objective for the time between tokens prevents that by itself.
func (w *walk) delayWeight() float64 {
	if w.slo.TPOT > 0 {
		return 1
	}
	return minDelayWeight + (1-minDelayWeight)*min(1, 2*float64(w.waiting)/float64(len(w.fleet.all)))
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

// eligible reports whether a request of that size may ever be sent to the replica.
func (w *walk) eligible(v *view, t *Ticket, size int) bool {
	if p := t.rule; len(p.Require) > 0 && !p.allows(v.on.Class) {
		return false
	}
	if v.on == t.avoid && w.fleet.slots > v.on.counted {
		return false
	}
	return size <= v.maxPrompt
}

const (
	// minDelayWeight is the weight of the seconds that a request takes from others while nobody waits.
	// The weight grows with the number of waiting requests.
	minDelayWeight = 0.25
	// maxPrefillShare limits the predicted share of prefill.
	maxPrefillShare = 0.95
	// futureWeight is the weight of the seconds that it takes from future requests.
	futureWeight = 3
)

// cost returns what a request would cost on a replica, in seconds, and the seconds of prefill
// in it. If the cost is at least enough, it may return any value of at least enough.
func (w *walk) cost(v *view, z need, delayWeight, enough float64) (cost, work float64) {
	next := v.base + v.perToken*(z.prompt+z.output/2)
	answer := z.output * next * v.slowdown
	cost = v.backlog + v.promised + answer + delayWeight*v.n*z.output*max(0, next-v.step)
	if cost >= enough {
		return cost, 0 // all that follows only adds to it
	}
	// The last token is always read, because its result is the first token of the answer.
	hit := min(float64(w.fleet.index.hits(v.prefixes)*BlockTokens), z.prompt-1)
	work = v.perPrompt + v.perPromptToken*attentionCost(z.prompt-hit, z.prompt)
	cost += work * (1 + v.waiting + delayWeight*v.streams + v.ahead)
	if v.cache > 0 {
		cost += w.overflow(v, z, z.output) / v.cache * answer
	}
	if w.late(z, v.firstAfter(work)) {
		cost += missCost
	}
	if limit := w.slo.TPOT.Seconds(); limit > 0 && cost < enough {
		cost += overrunCost * max(0, answer-overrunStart*z.output*limit)
		r := &v.on.books.risk
		cost += missCost * (r.of(v.promised+work) - r.of(v.promised))
	}
	return cost, work
}

// overflow returns how many tokens the replica's cache lacks for a prompt and so many tokens of its
// answer. What the prompt shares with prompts in flight is already there.
func (w *walk) overflow(v *view, z need, answer float64) float64 {
	over := v.memory + z.prompt + answer - v.cache
	if over > 0 {
		hit := w.fleet.index.hits(v.prefixes)
		over -= min(float64(v.on.books.shared.of(z.blocks[:min(hit, len(z.blocks))])), z.prompt)
	}
	return max(0, over)
}
