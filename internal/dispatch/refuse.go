package dispatch

import (
	"slices"
	"time"
)

// refuse decides whether to refuse a request rather than queue it.
func (q *Queue) refuse(t *Ticket, now time.Time) (Refusal, time.Duration) {
	if limit, queued := q.waitlist.queuedOf(t.Tenant); limit > 0 && queued >= limit {
		return TenantFull, q.drainTime(1)
	}
	full := q.policy.MaxQueue > 0 && q.waitlist.waiting >= q.policy.MaxQueue
	if full && q.waitlist.evictable(t) == nil {
		return QueueFull, q.drainTime(1)
	}
	p := t.rule
	free, rate, best, present := q.fleet.capacity(p)
	if q.policy.Mode == Tokens {
		free = 0
		rate, best = q.tokenCapacity(p, t)
	}
	if len(p.Require) > 0 && !present && len(q.fleet.present) > 0 && !q.policy.AwaitClass {
		return NoSuchClass, 0
	}
	if !q.learned.known || rate == 0 {
		return Accepted, 0 // too little is known to refuse anything
	}
	var wait time.Duration
	if !q.idle(p) {
		wait = seconds(float64(max(0, q.waitlist.aheadOf(t)+1-free)) * q.learned.averageCost() / rate)
	}
	return t.late(now, wait, seconds(t.cost/best))
}

// late refuses a request that would be served too late: after it expires, or so that its answer,
// which takes takes, is not complete by its deadline.
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

// idle reports whether a request with the placement starts immediately: on hardware that has
// capacity and that no waiting request may use.
func (q *Queue) idle(p *placement) bool {
	return slices.ContainsFunc(q.fleet.tiers, func(t *tier) bool {
		takes := t.free.len() > 0 || q.policy.Mode == Tokens && t.slots > 0
		return takes && p.allows(t.kind.class) && !q.waitlist.claimed(t.kind.class)
	})
}

// tokenCapacity is capacity in Tokens mode: the cost of mean requests per second, and the speed at
// which the fastest kind would return the request's first token.
func (q *Queue) tokenCapacity(p *placement, t *Ticket) (rate, best float64) {
	rate, best = q.fleet.tokenCapacity(p, t.cost, q.averages.needOf(t).prompt)
	return rate * q.learned.averageCost(), best
}

// drainTime returns how long it takes until n more requests have left the queue, between a second
// and a minute.
func (q *Queue) drainTime(n int) time.Duration {
	_, rate, _, _ := q.fleet.capacity(&placement{})
	if q.policy.Mode == Tokens {
		rate, _ = q.tokenCapacity(&placement{}, &Ticket{})
	}
	if rate == 0 || !q.learned.known {
		return time.Second
	}
	return min(max(seconds(float64(n)*q.learned.averageCost()/rate), time.Second), time.Minute)
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}
