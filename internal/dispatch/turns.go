package dispatch

import "slices"

// candidates returns the requests of one priority that may be served next, in order: the retries,
// then in Slots mode the first request of each placement, because those behind it can be placed no
// better.
func (w *waitlist) candidates(c *priority, mode Mode) []*Ticket {
	out := w.scratch[:0]
	for _, t := range c.retries {
		// Requests that failed on the same replica under the same placement can be placed alike:
		// the first represents all of them.
		alike := func(o *Ticket) bool { return o.avoid == t.avoid && o.Placement == t.Placement }
		if !t.lane.account.tenant.parked && !slices.ContainsFunc(out, alike) {
			out = append(out, t)
		}
	}
	if mode == Tokens {
		w.scratch = c.nextRequests(out, window)
		return w.scratch
	}
	retries := len(out)
	for i := range c.lanes {
		if c.lanes[i].len() > 0 {
			out = append(out, c.lanes[i].items[0].head)
		}
	}
	slices.SortFunc(out[retries:], func(a, b *Ticket) int {
		if before(a.lane, b.lane) {
			return -1
		}
		return 1
	})
	w.scratch = out
	return out
}

// turn is a lane's position in the order in which lanes are served.
type turn struct {
	lane   *lane
	at     int // index of the lane's next request
	charge float64
}

// nextRequests appends the first n requests in the order in which they will be served: by charge between
// tenants, then by deadline.
func (c *priority) nextRequests(out []*Ticket, n int) []*Ticket {
	var turns []turn
	for i := range c.lanes {
		turns = firstLanes(c.lanes[i].items, n, turns)
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

// firstLanes appends the first n lanes of a heap. Each is the least of the lanes whose parents were
// taken.
func firstLanes(items []*lane, n int, out []turn) []turn {
	var open []int
	if len(items) > 0 {
		open = append(open, 0)
	}
	for ; n > 0 && len(open) > 0; n-- {
		least := 0
		for i := range open {
			if before(items[open[i]], items[open[least]]) {
				least = i
			}
		}
		at := open[least]
		open = slices.Delete(open, least, least+1)
		out = append(out, turn{items[at], 0, items[at].charge})
		for child := 2*at + 1; child <= 2*at+2 && child < len(items); child++ {
			open = append(open, child)
		}
	}
	return out
}

// atRank returns the request that takes the slot found for t: the one at a rank in the queue.
// Tenants take turns, so a rank in the queue is divided among them.
func (c *priority) atRank(t *Ticket, rank int) *Ticket {
	if rank == 0 {
		return t
	}
	lanes := 0
	for i := range c.lanes {
		lanes += c.lanes[i].len()
	}
	tree := &t.lane.tree
	return tree.at(min(rank/lanes, tree.len()-1))
}
