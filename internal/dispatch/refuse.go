package dispatch

import (
	"math"
	"slices"
	"time"
)

// refuse decides whether a request is better sent away than queued.
func (q *Queue) refuse(t *Ticket, now time.Time) (Refusal, time.Duration) {
	if limit, queued := q.standing(t.Tenant); limit > 0 && queued >= limit {
		return TenantFull, q.drainTime(1)
	}
	full := q.policy.MaxQueue > 0 && q.waiting >= q.policy.MaxQueue
	if full && q.lesser(t) == nil {
		return QueueFull, q.drainTime(1)
	}
	p := &q.placements[t.Placement]
	free, rate, best, present := q.capacity(p)
	if q.policy.Mode == Tokens {
		free = 0
		rate, best = q.tokenCapacity(p, t)
	}
	if len(p.Require) > 0 && !present && len(q.present) > 0 && !q.policy.AwaitClass {
		return NoSuchClass, 0
	}
	if !q.learned || rate == 0 {
		return Accepted, 0 // nothing is known to refuse on
	}
	var wait time.Duration
	if !q.idle(p) {
		wait = seconds(float64(max(0, q.aheadOf(t)+1-free)) * q.averageCost() / rate)
	}
	return t.late(now, wait, seconds(t.cost/best))
}

// late refuses a request that would be served too late: after it expires, or so that its
// answer of the length takes is not whole by its deadline.
func (t *Ticket) late(now time.Time, wait, takes time.Duration) (Refusal, time.Duration) {
	if late := now.Add(wait).Sub(t.Expire); late > 0 {
		return TooLate, max(late, time.Second)
	}
	if t.Deadline.IsZero() {
		return Accepted, 0
	}
	if late := now.Add(wait + takes).Sub(t.Deadline); late > 0 {
		return TooLate, max(late, time.Second)
	}
	return Accepted, 0
}

// idle reports whether a request under the placement starts at once: on hardware that
// takes more requests and that nobody who waits may use.
func (q *Queue) idle(p *placement) bool {
	return slices.ContainsFunc(q.tiers, func(t *tier) bool {
		takes := t.free.len() > 0 || q.policy.Mode == Tokens && t.slots > 0
		return takes && p.allows(t.kind.class) && !q.claimed(t.kind.class)
	})
}

// claimed reports whether a request that waits may use the class.
func (q *Queue) claimed(class string) bool {
	for _, c := range q.priorities {
		for p, n := range c.ready {
			if n > 0 && q.placements[p].allows(class) {
				return true
			}
		}
	}
	return false
}

// tokenCapacity is the same in Tokens mode: mean requests per second, and the speed at
// which the fastest kind would give the request its first token. How long the answer
// will be is a guess, on which nothing is refused.
func (q *Queue) tokenCapacity(p *placement, t *Ticket) (rate, best float64) {
	prompt := q.needOf(t).prompt
	for _, s := range q.fleet {
		k := s.tier.kind
		if s.counted == 0 || !p.allows(k.class) || k.rate == 0 {
			continue
		}
		rate += k.rate
		best = max(best, t.cost/k.speed.reading(prompt, prompt))
	}
	return rate * q.averageCost(), best
}

// standing returns a tenant's bound of waiting requests and how many it has,
// without making room for a name that may be refused.
func (q *Queue) standing(name string) (limit, queued int) {
	if t, ok := q.tenants[name]; ok {
		return t.limits.MaxQueue, t.queued
	}
	return q.limitsOf(name).MaxQueue, 0
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

// lanesLooked bounds how many lanes are looked at to estimate a rank or to find a
// request to evict; the rest is taken to be like them.
const lanesLooked = 256

// aheadOf estimates how many of those that wait for any of the same hardware would be
// served before t: all of more urgent priorities whose tenants are not at their limit
// and, of its own, the turns that each tenant takes until t's has had as many as it
// has requests due earlier.
func (q *Queue) aheadOf(t *Ticket) int {
	rival := func(p int) bool { return q.placements[t.Placement].overlaps(&q.placements[p]) }
	n := 0
	for _, c := range q.priorities[:t.Priority] {
		n += sum(c.ready, rival)
	}
	c := q.priorities[t.Priority]
	own, charge, weight := 0, math.Inf(1), 1.0
	if a := c.accounts[t.Tenant]; a != nil && a.queued > 0 {
		weight = a.tenant.limits.Weight
		for p, l := range a.lanes {
			if l == nil || !rival(p) {
				continue
			}
			own += l.tree.rank(t)
			if l.tree.len() > 0 {
				charge = min(charge, l.charge)
			}
		}
	} else {
		weight = q.limitsOf(t.Tenant).Weight
	}
	n += own
	var turns float64
	looked, lanes := 0, 0
	for p := range c.lanes {
		if !rival(p) {
			continue
		}
		lanes += c.lanes[p].len()
		for _, l := range c.lanes[p].items[:min(c.lanes[p].len(), lanesLooked-looked)] {
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
	return n + min(int(turns), sum(c.ready, rival)) + sum(c.again, rival)
}

// sum adds the counts of the placements that which names.
func sum(counts []int, which func(placement int) bool) (n int) {
	for p, k := range counts {
		if which(p) {
			n += k
		}
	}
	return n
}

// drainTime is how long the fleet takes until n more requests have left the
// queue, at least a second and at most a minute.
func (q *Queue) drainTime(n int) time.Duration {
	_, rate, _, _ := q.capacity(&placement{})
	if q.policy.Mode == Tokens {
		rate, _ = q.tokenCapacity(&placement{}, &Ticket{})
	}
	if rate == 0 || !q.learned {
		return time.Second
	}
	return min(max(seconds(float64(n)*q.averageCost()/rate), time.Second), time.Minute)
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}
