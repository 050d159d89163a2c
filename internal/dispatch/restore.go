package dispatch

import "time"

// Restore queues a request that another queue has accepted, at the position of its arrival. It
// refuses and evicts nothing. The caller must restore requests in the order of their arrival. The
// tenant was not idle, so its charge does not change; see Charged.
func (q *Queue) Restore(t *Ticket, arrived time.Time) {
	q.prepare(t, arrived)
	if l := q.waitlist.laneOf(t); l.tree.len() == 0 {
		l.charge = max(l.charge, l.account.priority.floor[l.at])
	}
	q.waitlist.join(t)
}

// Adopt records a request that another queue has started and that already runs on a replica. It
// takes a slot even if none is free, and ends like any other; it was charged where it started. It
// returns false if the replica is unknown.
func (q *Queue) Adopt(t *Ticket, replica string, arrived, started, now time.Time) bool {
	s := q.fleet.servers[replica]
	if s == nil {
		return false
	}
	q.prepare(t, arrived)
	q.waitlist.laneOf(t)
	at := choice{on: s}
	if q.policy.Mode == Tokens {
		q.fleet.refresh(&q.averages, q.policy.SLO.TPOT.Seconds(), now)
		prompt := q.averages.needOf(t).prompt
		at.work = s.slowdown.factor * s.tier.kind.speed.prefillTime(prompt, prompt)
	}
	q.occupy(t, at, now)
	t.started, t.charged = started, t.cost/q.learned.averageCost()
	return true
}

// Sent records a prompt that another queue of the service sent to a replica, so that this queue
// knows the content of the replica's cache if it decides later.
func (q *Queue) Sent(replica string, blocks []uint64) {
	if s := q.fleet.servers[replica]; s != nil && q.policy.Mode == Tokens {
		q.fleet.index.add(s.prefixes, blocks, s.room())
	}
}
