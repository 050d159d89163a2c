package dispatch

import (
	"slices"
	"time"
)

// Queue is the state of one service: its waiting requests and its replicas. It is not safe for
// concurrent use. Each part has its own state, and the queue connects them: only learned and walk
// know other parts.
type Queue struct {
	policy   Policy
	waitlist waitlist
	fleet    fleet
	learned  learned
	averages averages
	walk     walk
	units    units
	load     load
	seq      uint64
	evicted  []*Ticket
	early    int       // requests that were sent ahead and have not started
	held     time.Time // when Next must look at a held request again
}

// New returns an empty queue.
func New(p Policy) *Queue {
	q := &Queue{policy: p, waitlist: newWaitlist(p), fleet: newFleet(p.Eject),
		averages: averages{output: defaultOutput}}
	q.learned = learned{mode: p.Mode, fleet: &q.fleet, averages: &q.averages}
	q.walk = walk{slo: p.SLO, fleet: &q.fleet, averages: &q.averages}
	return q
}

// Submit queues a request, or returns why not and after how long to retry. A ticket is submitted
// only once.
func (q *Queue) Submit(t *Ticket, now time.Time) (Refusal, time.Duration) {
	q.prepare(t, now)
	if why, after := q.refuse(t, now); why != Accepted {
		return why, after
	}
	if q.policy.MaxQueue > 0 && q.waitlist.waiting >= q.policy.MaxQueue {
		victim := q.waitlist.evictable(t)
		q.waitlist.leave(victim)
		q.evicted = append(q.evicted, victim)
	}
	q.waitlist.enter(t)
	return Accepted, 0
}

// prepare sets the queue's fields of a ticket that arrived at the given time.
func (q *Queue) prepare(t *Ticket, arrived time.Time) {
	t.Priority = min(max(t.Priority, 0), len(q.waitlist.priorities)-1)
	if t.Placement < 0 || t.Placement >= len(q.waitlist.placements) {
		t.Placement = 0
	}
	t.rule = q.waitlist.placements[t.Placement]
	t.due = t.order()
	t.cost = q.units.of(t.Cost)
	if q.policy.Mode == Tokens {
		// Short prompts may pass long ones, by 3 seconds for each 1,000 tokens.
		t.due = t.due.Add(3 * time.Duration(t.Prompt) * time.Millisecond)
		t.cost = q.averages.chargeOf(t, q.averages.needOf(t).output)
	}
	q.seq++
	t.seq, t.at = q.seq, arrived
}

// Withdraw removes a waiting ticket. It returns false if the ticket does not wait.
func (q *Queue) Withdraw(t *Ticket) bool {
	if !t.waiting {
		return false
	}
	q.waitlist.leave(t)
	return true
}

// Next assigns the next request to a replica and returns its ticket, or nil if no waiting request
// can be placed. The caller must call it after every change, and at the time that LookAgain
// returns, until it returns nil.
func (q *Queue) Next(now time.Time) *Ticket {
	q.fleet.resume(now)
	q.held = time.Time{}
	if q.early > 0 {
		for _, s := range q.fleet.all {
			q.promote(s, now) // its slots may have become more
		}
	}
	if q.policy.Mode == Tokens && q.waitlist.waiting > 0 {
		q.walk.survey(q.waitlist.waiting, now)
	}
	for _, c := range q.waitlist.priorities {
		if c.waiting == 0 {
			continue
		}
		for _, t := range q.waitlist.candidates(c, q.policy.Mode) {
			got := q.pick(t, now)
			if got.on != nil {
				t = c.atRank(t, got.rank)
				q.start(t, got, now)
				return t
			}
			if !got.until.IsZero() && (q.held.IsZero() || got.until.Before(q.held)) {
				q.held = got.until
			}
		}
	}
	return nil
}

func (q *Queue) start(t *Ticket, at choice, now time.Time) {
	q.waitlist.leave(t)
	floor := &t.lane.account.priority.floor[t.Placement]
	*floor = max(*floor, t.lane.charge)
	q.occupy(t, at, now)
	t.charged = t.cost / q.learned.averageCost()
	q.waitlist.charge(t.lane.account, t.charged, at.on.Class)
}

// occupy gives a slot of a replica to a ticket that does not wait.
func (q *Queue) occupy(t *Ticket, at choice, now time.Time) {
	s := at.on
	t.on, t.started = s, now
	if q.policy.Mode == Tokens {
		s.send(t, at.work, at.hit, now)
		q.fleet.index.add(s.prefixes, t.Blocks, s.room())
	}
	if t.early = q.policy.SendAhead > 0 && s.active >= max(s.counted, 1); t.early {
		s.early = append(s.early, t)
		q.early++
	}
	s.active++
	q.seq++
	s.used = q.seq
	t.occupied = min(1, float64(s.active)/float64(s.Slots))
	if t.speed = s.tier.rate; t.early {
		t.speed = 0 // it uses no slot yet
	}
	q.load.change(t.speed, q.learned.total, now)
	t.lane.account.tenant.active++
	q.fleet.refile(s)
	q.waitlist.park(t.lane.account.tenant)
}

// Finish frees the ticket's slot. pause is how long a Busy replica asked to get no requests.
func (q *Queue) Finish(t *Ticket, verdict Verdict, pause time.Duration, now time.Time) {
	s := t.on
	if s == nil {
		return
	}
	if q.policy.Mode == Tokens {
		if verdict == Served {
			q.averages.add(t)
		}
		s.ended(t, verdict, now)
	}
	t.on = nil
	s.active--
	q.load.change(-t.speed, q.learned.total, now)
	early := t.early
	if early {
		t.early = false
		q.early--
		s.early = slices.DeleteFunc(s.early, func(o *Ticket) bool { return o == t })
	}
	q.promote(s, now)
	account := t.lane.account
	tenant := account.tenant
	tenant.active--
	took := now.Sub(t.started).Seconds()
	if q.policy.Mode == Tokens {
		q.waitlist.charge(account, q.averages.chargeOf(t, float64(t.entry.tokens))-t.charged, s.Class)
	} else if q.learned.known && !early {
		// The start charged the declared cost; now the work is known.
		q.waitlist.charge(account, took*s.tier.rate/q.learned.averageCost()-t.charged, s.Class)
	}
	q.fleet.judge(s, t, verdict, pause, now)
	q.fleet.refile(s)
	if verdict == Served && !early {
		q.learned.learn(s, t, took)
	}
	q.fleet.removeIfDone(s)
	q.waitlist.park(tenant)
}

// Retry frees the ticket's slot and queues the request again, ahead of others, for another replica
// if there is one.
func (q *Queue) Retry(t *Ticket, verdict Verdict, pause time.Duration, now time.Time) {
	if t.on == nil {
		return
	}
	s := t.on
	q.Finish(t, verdict, pause, now)
	t.avoid = s
	q.waitlist.enter(t)
}

// LookAgain returns when the caller must call Next again even if nothing happens, or zero for
// never.
func (q *Queue) LookAgain() time.Time {
	at := q.held
	if q.fleet.suspended.len() > 0 {
		if until := q.fleet.suspended.items[0].health.until; at.IsZero() || until.Before(at) {
			at = until
		}
	}
	return at
}

// Waiting returns the number of waiting requests.
func (q *Queue) Waiting() int { return q.waitlist.waiting }

// Starving reports whether a request waits that no known replica could serve, healthy or not.
func (q *Queue) Starving() bool {
	for i := range q.waitlist.placements {
		if q.starves(i) {
			return true
		}
	}
	return false
}

// StarvesFor reports whether a replica of the class would serve such a request.
func (q *Queue) StarvesFor(class string) bool {
	for i := range q.waitlist.placements {
		if q.starves(i) && q.waitlist.placements[i].allows(class) {
			return true
		}
	}
	return false
}

func (q *Queue) starves(placement int) bool {
	if q.waitlist.wanted[placement] == 0 {
		return false
	}
	for class := range q.fleet.present {
		if q.waitlist.placements[placement].allows(class) {
			return false
		}
	}
	return true
}
