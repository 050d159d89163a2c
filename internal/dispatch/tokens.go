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

// need is a request in tokens.
type need struct {
	prompt, output float64
	waited         float64 // seconds since it came
	blocks         []uint64
}

func (q *Queue) needOf(t *Ticket) need {
	z := need{prompt: float64(max(t.Prompt, 1)), output: float64(t.Output), blocks: t.Blocks}
	if t.Output <= 0 {
		z.output = q.output
	}
	return z
}

// outputWeight is what a token of an answer costs, in tokens of a prompt, in what
// tenants are charged.
const outputWeight = 2

// tokensOf is what a request is charged, in mean requests.
func (q *Queue) tokensOf(t *Ticket, output float64) float64 {
	mean := q.prompt + outputWeight*q.output
	return min((float64(t.Prompt)+outputWeight*output)/mean, extent)
}

// cheapest places a request where it costs the fewest seconds: its own, those that
// it takes from the requests already there, and those that it takes from the ones
// to come. Where that replica has enough to do, the request is promised to it and
// keeps waiting, free to be sent elsewhere.
func (q *Queue) cheapest(t *Ticket, now time.Time) choice {
	if q.opened == 0 {
		return choice{until: now.Add(look)} // whatever is promised, nothing is sent
	}
	z := q.needOf(t)
	z.waited = now.Sub(t.at).Seconds()
	q.index.match(t.Blocks)
	crowd := q.crowd()
	if q.late(z, 0) {
		crowd = 1
	}
	best, work := q.least(t, z, crowd)
	if best == nil {
		return choice{}
	}
	if crowd < 1 && q.late(z, best.firstAfter(work)) {
		best, work = q.least(t, z, 1)
	}
	s := best.on
	if best.promised == 0 && best.open && q.hasty(best, z, work) {
		return choice{until: now.Add(look)}
	}
	if best.promised == 0 && best.open {
		if s.KV == 0 || s.active == 0 || q.beyond(best, z, 0) <= 0 {
			return choice{on: s, work: work, hit: q.index.hits(best.shelf) * BlockTokens}
		}
	}
	if best.open {
		best.open = false // whoever comes later does not overtake
		q.opened--
	}
	best.promised += work
	return choice{until: now.Add(look)}
}

// late reports whether a request misses the objective for its first token, if that comes
// so many seconds from now. Then it counts in full what it takes from others, which may
// still be in time.
func (q *Queue) late(z need, seconds float64) bool {
	limit := q.policy.SLO.TTFT.Seconds()
	return limit > 0 && z.waited+seconds > limit
}

// least returns the view of the replica on which a request costs the fewest seconds, of
// equal ones the first, and how many seconds that would read for it.
func (q *Queue) least(t *Ticket, z need, crowd float64) (best *view, work float64) {
	p := &q.placements[t.Placement]
	size := min(t.Prompt, q.longest(t.Placement))
	preferred := q.prefers(t, size)
	least := math.Inf(1)
	for i := range q.views {
		v := &q.views[i]
		if !q.eligible(v, t, size) || preferred && !slices.Contains(p.Prefer, v.on.Class) {
			continue
		}
		if cost, reads := q.cost(v, z, crowd, least); cost < least {
			best, least, work = v, cost, reads
		}
	}
	return best, work
}

// crowd is how much the seconds count that a request takes from others.
func (q *Queue) crowd() float64 {
	return crowdBase + (1-crowdBase)*min(1, 2*float64(q.waiting)/float64(len(q.fleet)))
}

// prefers reports whether a replica of a class that the request prefers is open.
func (q *Queue) prefers(t *Ticket, size int) bool {
	p := &q.placements[t.Placement]
	if len(p.Prefer) == 0 {
		return false
	}
	for i := range q.views {
		if v := &q.views[i]; v.open && slices.Contains(p.Prefer, v.on.Class) && q.eligible(v, t, size) {
			return true
		}
	}
	return false
}

// eligible reports whether a request of a size may ever be sent to the replica.
func (q *Queue) eligible(v *view, t *Ticket, size int) bool {
	if p := &q.placements[t.Placement]; len(p.Require) > 0 && !p.allows(v.on.Class) {
		return false
	}
	if v.on == t.avoid && q.slots > v.on.counted {
		return false
	}
	return size <= v.takes
}

const (
	// crowdBase is how much the seconds that a request takes from others count while
	// nobody waits; as more wait, they come to count in full.
	crowdBase = 0.25
	// fullest bounds the share of reading in what is predicted.
	fullest = 0.95
	// coming is how much the seconds count that it takes from requests to come.
	coming = 3
)

// cost is what a request would cost on a replica, in seconds, and how many of them
// the replica would read. Where it is no less than enough, any sum from enough on may be
// returned for it.
func (q *Queue) cost(v *view, z need, crowd, enough float64) (cost, work float64) {
	next := v.base + v.perToken*(z.prompt+z.output/2)
	answer := z.output * next * v.slowed
	cost = v.backlog + v.promised + answer + crowd*v.n*z.output*max(0, next-v.step)
	if cost >= enough {
		return cost, 0 // and all that follows is more
	}
	// The last token is always read: its answer is the first token.
	hit := min(float64(q.index.hits(v.shelf)*BlockTokens), z.prompt-1)
	work = v.perPrompt + v.perRead*longer(z.prompt-hit, z.prompt)
	cost += work * (1 + v.waiting + crowd*v.streams + v.ahead)
	if v.cache > 0 {
		cost += q.beyond(v, z, z.output) / v.cache * answer
	}
	if q.late(z, v.firstAfter(work)) {
		cost += missed
	}
	if limit := q.policy.SLO.TPOT.Seconds(); limit > 0 && cost < enough {
		cost += stretched * max(0, answer-nearly*z.output*limit)
		r := &v.on.books.risk
		cost += missed * (r.of(v.promised+work) - r.of(v.promised))
	}
	return cost, work
}

// beyond is how many tokens the replica's cache lacks for a prompt and so many tokens of its
// answer. What the prompt shares with those in flight is there already.
func (q *Queue) beyond(v *view, z need, answer float64) float64 {
	over := v.memory + z.prompt + answer - v.cache
	if over > 0 {
		hit := q.index.hits(v.shelf)
		over -= min(float64(v.on.books.shared.of(z.blocks[:min(hit, len(z.blocks))])), z.prompt)
	}
	return max(0, over)
}

// turn is a lane in the order in which lanes are served.
type turn struct {
	lane   *lane
	at     int // the request of the lane that is next
	charge float64
}

// within appends the first n requests in the order in which they are due to be
// served: by charge between tenants, then by deadline.
func (c *priority) within(out []*Ticket, n int) []*Ticket {
	var turns []turn
	for i := range c.lanes {
		turns = firstOf(c.lanes[i].items, n, turns)
	}
	for ; n > 0 && len(turns) > 0; n-- {
		first := 0
		for i := range turns {
			a, b := turns[i], turns[first]
			if a.charge < b.charge || a.charge == b.charge && earlier(a.lane.tree.at(a.at), b.lane.tree.at(b.at)) {
				first = i
			}
		}
		next := &turns[first]
		out = append(out, next.lane.tree.at(next.at))
		next.charge += 1 / next.lane.account.tenant.limits.Weight
		if next.at++; next.at == next.lane.tree.len() {
			turns = slices.Delete(turns, first, first+1)
		}
	}
	return out
}

// firstOf appends the first n lanes of a heap: each is the least of those whose
// parents were taken.
func firstOf(heap []*lane, n int, out []turn) []turn {
	var open []int
	if len(heap) > 0 {
		open = append(open, 0)
	}
	for ; n > 0 && len(open) > 0; n-- {
		least := 0
		for i := range open {
			if before(heap[open[i]], heap[open[least]]) {
				least = i
			}
		}
		at := open[least]
		open = slices.Delete(open, least, least+1)
		out = append(out, turn{heap[at], 0, heap[at].charge})
		for child := 2*at + 1; child <= 2*at+2 && child < len(heap); child++ {
			open = append(open, child)
		}
	}
	return out
}
