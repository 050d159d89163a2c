package dispatch

import "math"

// queuedOf returns a tenant's limit of waiting requests and how many it has. It does not create an
// account, because the request may be refused.
func (w *waitlist) queuedOf(name string) (limit, queued int) {
	if t, ok := w.tenants[name]; ok {
		return t.limits.MaxQueue, t.queued
	}
	return w.limitsOf(name).MaxQueue, 0
}

// claimed reports whether a waiting request may use the class.
func (w *waitlist) claimed(class string) bool {
	for _, c := range w.priorities {
		for p, n := range c.ready {
			if n > 0 && w.placements[p].allows(class) {
				return true
			}
		}
	}
	return false
}

// competing returns how many requests wait for any of the ticket's hardware at its priority or a more
// urgent one, including the ticket.
func (w *waitlist) competing(t *Ticket) int {
	n := 0
	for _, c := range w.priorities[:t.Priority+1] {
		n += sum(c.ready, func(p int) bool { return t.rule.overlaps(w.placements[p]) })
	}
	return n
}

// maxLanes limits how many lanes are examined to estimate a rank or to find a request to evict.
// The remaining lanes are assumed to be similar.
const maxLanes = 256

// aheadOf estimates how many of the requests that wait for any of the same hardware would be served
// before t. These are all requests of more urgent priorities whose tenants are not at their limit
// and, at t's own priority, the turns of each tenant until t's tenant has had as many turns as it
// has requests due earlier.
func (w *waitlist) aheadOf(t *Ticket) int {
	competes := func(p int) bool { return t.rule.overlaps(w.placements[p]) }
	n := 0
	for _, c := range w.priorities[:t.Priority] {
		n += sum(c.ready, competes)
	}
	c := w.priorities[t.Priority]
	own, charge, weight := 0, math.Inf(1), 1.0
	if a := c.accounts[t.Tenant]; a != nil && a.queued > 0 {
		weight = a.tenant.limits.Weight
		for p, l := range a.lanes {
			if l == nil || !competes(p) {
				continue
			}
			own += l.tree.rank(t)
			if l.tree.len() > 0 {
				charge = min(charge, l.charge)
			}
		}
	} else {
		weight = w.limitsOf(t.Tenant).Weight
	}
	n += own
	var turns float64
	looked, lanes := 0, 0
	for p := range c.lanes {
		if !competes(p) {
			continue
		}
		lanes += c.lanes[p].len()
		for _, l := range c.lanes[p].items[:min(c.lanes[p].len(), maxLanes-looked)] {
			looked++
			if l.account.tenant.name == t.Tenant {
				continue
			}
			w := l.account.tenant.limits.Weight
			// A tenant that had nothing waiting starts with the least charge.
			lead := 0.0
			if !math.IsInf(charge, 1) {
				lead = max(0, charge-l.charge)
			}
			turns += min(float64(l.tree.len()), 1+(float64(own)/weight+lead)*w)
		}
	}
	if looked > 0 {
		turns *= float64(lanes) / float64(looked)
	}
	return n + min(int(turns), sum(c.ready, competes)) + sum(c.again, competes)
}

// sum adds up the counts of the placements for which which returns true.
func sum(counts []int, which func(placement int) bool) (n int) {
	for p, k := range counts {
		if which(p) {
			n += k
		}
	}
	return n
}
