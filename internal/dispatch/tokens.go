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
type need struct{ prompt, output float64 }

func (q *Queue) sizeOf(t *Ticket) need {
	z := need{prompt: float64(max(t.Prompt, 1)), output: float64(t.Output)}
	if t.Output <= 0 {
		z.output = q.output
	}
	return z
}

// cheapest places a request where it costs the fewest seconds: its own, those that
// it takes from the requests already there, and those that it takes from the ones
// to come. Where that replica has enough to do, the request is promised to it and
// keeps waiting, free to be sent elsewhere.
func (q *Queue) cheapest(t *Ticket, now time.Time) choice {
	best, bestCost, bestWork := (*server)(nil), math.Inf(1), 0.0
	z := q.sizeOf(t)
	q.index.match(t.Blocks)
	for _, s := range q.fleet {
		s.assumeBegun(q.output, now)
		if !q.eligible(s, t) {
			continue
		}
		if cost, work := q.cost(s, z, now); cost < bestCost {
			best, bestCost, bestWork = s, cost, work
		}
	}
	if best == nil {
		return choice{}
	}
	b := &best.books
	if b.round != q.round {
		b.round, b.promised = q.round, 0
	}
	if b.promised == 0 && best.open(z, now) {
		return choice{on: best, work: bestWork, hit: q.index.hits(best.shelf) * BlockTokens}
	}
	b.promised += bestWork
	return choice{until: now.Add(look)}
}

// eligible reports whether the request may ever be sent to the replica.
func (q *Queue) eligible(s *server, t *Ticket) bool {
	switch {
	case s.usable() == 0 || !q.placements[t.Placement].allows(s.Class):
		return false
	case s == t.avoid && q.slots > s.counted:
		return false
	case s.MaxPrompt > 0 && t.Prompt > s.MaxPrompt:
		return false
	case s.KV > 0 && t.Prompt > s.KV:
		return false
	}
	return true
}

// open reports whether the replica takes a request now.
func (s *server) open(z need, now time.Time) bool {
	b := &s.books
	switch {
	case (s.Slots > 1 || s.health.onProbation) && s.active >= s.usable():
		return false
	case s.active == 0:
		return true
	case b.backlog(now) > hold:
		return false
	}
	return s.KV == 0 || float64(b.kv)+z.prompt <= float64(s.KV)
}

// cost is what a request would cost on a replica, in seconds, and how many of them
// the replica would read.
func (q *Queue) cost(s *server, z need, now time.Time) (cost, work float64) {
	b, v := &s.books, &s.tier.kind.speed
	n, kv, backlog := float64(s.active), float64(b.kv), b.backlog(now)
	// The last token is always read: its answer is the first token.
	hit := min(float64(q.index.hits(s.shelf)*BlockTokens), z.prompt-1)
	work = v.reading(z.prompt-hit, z.prompt)
	if b.foreign.until.After(now) {
		n += b.foreign.running
		kv += b.foreign.kv
		backlog += b.foreign.waiting * work
	}
	if b.round == q.round {
		backlog += b.promised
	}
	busy := b.share.of(now)
	next := v.stepping(n+1, kv+z.prompt+z.output/2)
	token := next / (1 - min(busy, 0.8))
	own := backlog + work + z.output*token
	if s.KV > 0 {
		over := kv + z.prompt + z.output - float64(s.KV)
		own += max(0, over) / float64(s.KV) * z.output * token
	}
	others := float64(b.streams)*work + n*z.output*max(0, next-v.stepping(n, kv))
	crowd := 0.5 + 0.5*min(1, 2*float64(q.waiting)/float64(len(q.fleet)))
	r := min(busy, 0.9)
	cost = own + crowd*others + 3*work*r/(1-r)
	if limit := q.policy.SLO.TPOT.Seconds(); limit > 0 {
		cost += 4 * z.output * max(0, token-limit)
	}
	return cost, work
}

// within returns the first requests in the order in which they are due to be
// served, n at most: by charge between tenants, then by deadline.
func (c *priority) within(n int) []*Ticket {
	var out []*Ticket
	type turn struct {
		lane   *lane
		at     int
		charge float64
	}
	var turns []turn
	for i := range c.lanes {
		for _, l := range c.lanes[i].items {
			turns = append(turns, turn{l, 0, l.charge})
		}
	}
	for len(out) < n && len(turns) > 0 {
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
