package dispatch

import "time"

// Ejection bounds how failing replicas are taken out of service. Zero fields
// mean their defaults.
type Ejection struct {
	// Failures in a row before a replica is ejected, 5 by default. A refused
	// connection ejects at once.
	Failures int
	// Base is the first time out, doubled at each ejection in a row up to Max;
	// 1 s and 1 minute by default.
	Base, Max time.Duration
	// Probes is how many requests, one at a time, a replica must serve well before
	// it gets all its slots back; 3 by default.
	Probes int
}

func (e Ejection) defaulted() Ejection {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&e.Base, time.Second)
	set(&e.Max, time.Minute)
	if e.Failures <= 0 {
		e.Failures = 5
	}
	if e.Probes <= 0 {
		e.Probes = 3
	}
	return e
}

// health is how far one replica is trusted.
type health struct {
	failures    int // in a row
	ejections   int // in a row
	successes   int // in a row, on probation
	onProbation bool
	until       time.Time // end of the suspension
	probe       bool      // the suspension ends in probation
}

// maxPause bounds how long one refusal keeps a busy replica without requests, so
// that an answer meant for one client cannot silence a replica.
const maxPause = 250 * time.Millisecond

// judge records how an attempt ended and takes the replica out, or back in.
func (q *Queue) judge(s *server, o Outcome, pause time.Duration, now time.Time) {
	h, rule := &s.health, q.policy.Eject
	switch o {
	case Served:
		h.failures = 0
		if !h.onProbation {
			break
		}
		if h.successes++; h.successes >= rule.Probes {
			*h = health{}
		}
	case Busy:
		q.suspend(s, now.Add(min(max(pause, 10*time.Millisecond), maxPause)), false)
	case Unreachable:
		q.eject(s, now)
	case Failed:
		h.failures++
		// Answers alone never take out the second half of a fleet: then the cause
		// is more likely in the requests than in every replica.
		if h.onProbation || (h.failures >= rule.Failures && 2*(q.slots-s.counted) >= q.slots) {
			q.eject(s, now)
		}
	}
}

func (q *Queue) eject(s *server, now time.Time) {
	h, rule := &s.health, q.policy.Eject
	out := rule.Base
	for i := 0; i < h.ejections && out < rule.Max; i++ {
		out *= 2
	}
	h.ejections++
	h.failures, h.successes = 0, 0
	q.suspend(s, now.Add(min(out, rule.Max)), true)
}

func (q *Queue) suspend(s *server, until time.Time, probe bool) {
	if s.wake >= 0 {
		if until.After(s.health.until) {
			s.health.until = until
			q.suspended.fix(s.wake)
		}
		s.health.probe = s.health.probe || probe
		return
	}
	s.health.until, s.health.probe = until, probe
	q.suspended.push(s)
}

// revive ends the suspensions that are over.
func (q *Queue) revive(now time.Time) {
	for q.suspended.len() > 0 {
		s := q.suspended.items[0]
		if s.health.until.After(now) {
			return
		}
		q.suspended.remove(0)
		s.health.onProbation = s.health.onProbation || s.health.probe
		s.health.probe = false
		q.file(s)
	}
}
