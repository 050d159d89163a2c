package dispatch

// evictable returns the waiting request to evict in favor of t when the queue is full: at the least
// urgent priority, of the tenant with the most waiting requests for its weight, the one due last.
// At t's own priority it considers only a tenant with more than twice as many waiting. Retries have
// waited before, so at each less urgent priority they are evicted last. It returns nil if there is
// none.
func (w *waitlist) evictable(t *Ticket) *Ticket {
	for at := len(w.priorities) - 1; at >= t.Priority; at-- {
		l := w.priorities[at].longest()
		if l == nil {
			if again := w.priorities[at].retries; at > t.Priority && len(again) > 0 {
				return again[len(again)-1]
			}
			continue
		}
		if at == t.Priority {
			_, own := w.queuedOf(t.Tenant)
			fair := 2 * float64(own+1) / w.limitsOf(t.Tenant).Weight
			if other := l.account.tenant; other.name == t.Tenant || float64(other.queued)/other.limits.Weight <= fair {
				return nil
			}
		}
		return l.tree.at(l.tree.len() - 1)
	}
	return nil
}

// longest returns, among the first lanes, the one with the most requests for its tenant's weight. A
// tenant at its limit is not spared: otherwise it could fill the queue while slots are free.
func (c *priority) longest() *lane {
	var best *lane
	size := func(l *lane) float64 { return float64(l.tree.len()) / l.account.tenant.limits.Weight }
	for p := range c.lanes {
		for _, h := range []*heap[*lane]{c.lanes[p], c.parked[p]} {
			for _, l := range h.items[:min(h.len(), maxLanes)] {
				if best == nil || size(l) > size(best) {
					best = l
				}
			}
		}
	}
	return best
}

// Evicted returns a request that was evicted in favor of a more urgent one, or nil when there are
// no more. It must be called after every Submit.
func (q *Queue) Evicted() *Ticket {
	if len(q.evicted) == 0 {
		return nil
	}
	t := q.evicted[0]
	q.evicted = q.evicted[1:]
	return t
}
