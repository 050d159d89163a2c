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
}

func (q *Queue) needOf(t *Ticket) need {
	z := need{prompt: float64(max(t.Prompt, 1)), output: float64(t.Output)}
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

// view is what a walk sees of a replica: its books, its engine's other load and
// what the walk has promised to it.
type view struct {
	round      uint64  // of the walk
	n, kv      float64 // requests, and their tokens in the cache
	streams    float64
	backlog    float64 // seconds until it has read what it has
	waiting    float64 // prompts in it from past this queue
	late, long float64 // share of its time spent reading
	step       float64 // seconds of its present step
	drag       float64 // how much slower it is than its kind
	open       bool    // takes a request now, if its cache has room
	promised   float64 // seconds of reading
}

// survey takes the views of all replicas and counts the open ones.
func (q *Queue) survey(now time.Time) {
	q.refresh(now)
	q.round++
	q.opened = 0
	q.wonder(now)
	for _, s := range q.fleet {
		s.assumeBegun(q.output, now)
		b := &s.books
		w := view{
			round: q.round, n: float64(s.active), kv: float64(b.kv), streams: float64(len(b.begun)), backlog: b.backlog(now),
		}
		w.late, w.long = b.share.of(now)
		if b.foreign.until.After(now) {
			w.n += b.foreign.running
			w.kv += b.foreign.kv
			w.waiting = b.foreign.waiting
		}
		w.drag = s.drag.factor
		if s.tier.kind.untried {
			w.drag /= doubt
		}
		w.step = w.drag * s.tier.kind.speed.stepping(w.n, w.kv)
		bounded := s.Slots > 1 || s.health.onProbation
		switch usable := s.usable(); {
		case usable == 0, bounded && s.active >= usable:
		default:
			w.open = s.active == 0 || w.backlog <= hold
		}
		if w.open {
			q.opened++
		}
		b.view = w
		if q.policy.SLO.TPOT > 0 {
			q.reckon(s, now)
		}
	}
}

// cheapest places a request where it costs the fewest seconds: its own, those that
// it takes from the requests already there, and those that it takes from the ones
// to come. Where that replica has enough to do, the request is promised to it and
// keeps waiting, free to be sent elsewhere.
func (q *Queue) cheapest(t *Ticket, now time.Time) choice {
	if q.opened == 0 {
		return choice{until: now.Add(look)} // whatever is promised, nothing is sent
	}
	best, bestCost, bestWork := (*server)(nil), math.Inf(1), 0.0
	z := q.needOf(t)
	z.waited = now.Sub(t.at).Seconds()
	crowd := crowdBase + (1-crowdBase)*min(1, 2*float64(q.waiting)/float64(len(q.fleet)))
	size := q.taken(t)
	preferred := q.prefers(t, size)
	q.index.match(t.Blocks)
	for _, s := range q.fleet {
		if !q.eligible(s, t, size) || preferred && !slices.Contains(q.placements[t.Placement].Prefer, s.Class) {
			continue
		}
		if cost, work := q.cost(s, z, crowd); cost < bestCost {
			best, bestCost, bestWork = s, cost, work
		}
	}
	if best == nil {
		return choice{}
	}
	v := &best.books.view
	if v.promised == 0 && v.open && q.hasty(best, z, bestWork) {
		return choice{until: now.Add(look)}
	}
	if v.promised == 0 && v.open {
		if best.KV == 0 || best.active == 0 || v.kv+z.prompt <= float64(best.KV) {
			return choice{on: best, work: bestWork, hit: q.index.hits(best.shelf) * BlockTokens}
		}
	}
	if v.open {
		v.open = false // whoever comes later does not overtake
		q.opened--
	}
	v.promised += bestWork
	return choice{until: now.Add(look)}
}

// firstAfter is the seconds until the first token of a request that the replica reads
// for work seconds.
func (v *view) firstAfter(work float64) float64 {
	return v.backlog + v.promised + v.waiting*work + work
}

// prefers reports whether a replica of a class that the request prefers is open.
func (q *Queue) prefers(t *Ticket, size int) bool {
	p := &q.placements[t.Placement]
	return len(p.Prefer) > 0 && slices.ContainsFunc(q.fleet, func(s *server) bool {
		return s.books.view.open && slices.Contains(p.Prefer, s.Class) && q.eligible(s, t, size)
	})
}

// takes is the longest prompt that a replica takes.
func (s *server) takes() int {
	most := math.MaxInt
	if s.KV > 0 {
		most = s.KV
	}
	if s.MaxPrompt > 0 {
		most = min(most, s.MaxPrompt)
	}
	return most
}

// taken is the length for which a replica is looked for: the prompt's, or what the
// replica takes that takes most, whether it is up or not. Lengths are estimates,
// and what is too long in truth is for an engine to say.
func (q *Queue) taken(t *Ticket) int {
	most := 0
	for _, s := range q.fleet {
		if !s.leaving && q.placements[t.Placement].allows(s.Class) {
			most = max(most, s.takes())
		}
	}
	return min(t.Prompt, most)
}

// eligible reports whether a request of a size may ever be sent to the replica.
func (q *Queue) eligible(s *server, t *Ticket, size int) bool {
	switch {
	case s.counted == 0 || !q.placements[t.Placement].allows(s.Class):
		return false
	case s == t.avoid && q.slots > s.counted:
		return false
	}
	return size <= s.takes()
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
// the replica would read.
func (q *Queue) cost(s *server, z need, crowd float64) (cost, work float64) {
	b, v := &s.books.view, &s.tier.kind.speed
	// The last token is always read: its answer is the first token.
	hit := min(float64(q.index.hits(s.shelf)*BlockTokens), z.prompt-1)
	work = b.drag * v.reading(z.prompt-hit, z.prompt)
	next := b.drag * v.stepping(b.n+1, b.kv+z.prompt+z.output/2)
	token := next / (1 - min(b.late, fullest))
	own := b.backlog + b.promised + b.waiting*work + work + z.output*token
	if s.KV > 0 {
		over := b.kv + z.prompt + z.output - float64(s.KV)
		own += max(0, over) / float64(s.KV) * z.output * token
	}
	others := b.streams*work + b.n*z.output*max(0, next-b.step)
	r := min(b.long, fullest)
	cost = own + crowd*others + coming*work*r/(1-r)
	if limit := q.policy.SLO.TTFT.Seconds(); limit > 0 && z.waited+b.firstAfter(work) > limit {
		cost += missed
	}
	if q.policy.SLO.TPOT > 0 {
		r := &s.books.risk
		cost += missed * (r.of(b.promised+work) - r.of(b.promised))
	}
	return cost, work
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
