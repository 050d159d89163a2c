package dispatch

import "time"

// refuse decides whether a request is better sent away than queued.
func (q *Queue) refuse(t *Ticket, now time.Time) (Refusal, time.Duration) {
	if q.policy.MaxQueue > 0 && q.waiting >= q.policy.MaxQueue {
		return QueueFull, q.drainTime(1)
	}
	if limit, queued := q.standing(t.Tenant); limit > 0 && queued >= limit {
		return TenantFull, q.drainTime(1)
	}
	p := &q.placements[t.Placement]
	free, rate, best, present := q.capacity(p)
	if len(p.Require) > 0 && !present && len(q.present) > 0 && !q.policy.AwaitClass {
		return NoSuchClass, 0
	}
	if !q.learned || rate == 0 {
		return Accepted, 0 // nothing is known to refuse on
	}
	ahead := q.aheadOf(t)
	mean := q.averageCost()
	wait := seconds(float64(max(0, ahead+1-free)) * mean / rate)
	if late := now.Add(wait).Sub(t.Expire); late > 0 {
		return TooLate, max(late, time.Second)
	}
	if t.Deadline.IsZero() {
		return Accepted, 0
	}
	if late := now.Add(wait + seconds(t.cost()/best)).Sub(t.Deadline); late > 0 {
		return TooLate, max(late, time.Second)
	}
	return Accepted, 0
}

// standing returns a tenant's bound of waiting requests and how many it has,
// without making room for a name that may be refused.
func (q *Queue) standing(name string) (limit, queued int) {
	if t, ok := q.tenants[name]; ok {
		return t.limits.MaxQueue, t.queued
	}
	limits, named := q.policy.Tenants[name]
	if !named {
		limits = q.policy.Tenants[""]
	}
	return limits.MaxQueue, 0
}

// capacity sums what the placement may use: tiers with a free slot, the speed of all its
// slots and that of the fastest one.
func (q *Queue) capacity(p *placement) (free int, rate, best float64, present bool) {
	for _, t := range q.tiers {
		if !p.allows(t.kind.class) {
			continue
		}
		present = present || q.present[t.kind.class] > 0
		if t.slots == 0 {
			continue
		}
		rate += float64(t.slots) * t.rate
		best = max(best, t.rate)
		if t.free.len() > 0 {
			free++
		}
	}
	return free, rate, best, present
}

// aheadOf estimates how many waiting requests would be served before t: all of
// more urgent priorities and, of its own, the part that its own tenant's requests
// due earlier are of all that tenant's.
func (q *Queue) aheadOf(t *Ticket) int {
	n := 0
	for _, c := range q.priorities[:t.Priority] {
		n += c.waiting
	}
	c := q.priorities[t.Priority]
	a := c.accounts[t.Tenant]
	if a == nil || a.queued == 0 {
		// A tenant with nothing waiting is served when each other had a turn.
		return n + min(c.waiting, len(c.accounts))
	}
	rank := 0
	for _, l := range a.lanes {
		if l != nil {
			rank += l.tree.rank(t)
		}
	}
	return n + rank*c.waiting/a.queued
}

// drainTime is how long the fleet takes until n more requests have left the
// queue, at least a second and at most a minute.
func (q *Queue) drainTime(n int) time.Duration {
	_, rate, _, _ := q.capacity(&placement{})
	if rate == 0 || !q.learned {
		return time.Second
	}
	return min(max(seconds(float64(n)*q.averageCost()/rate), time.Second), time.Minute)
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}
