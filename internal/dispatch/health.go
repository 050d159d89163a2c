package dispatch

import (
	"math"
	"time"
)

// Ejection configures how failing replicas are taken out of service. Zero fields mean their
// defaults.
type Ejection struct {
	// Failures is the number of consecutive failures that eject a replica, 5 by default. A refused
	// connection ejects it immediately.
	Failures int
	// Base is the duration of the first ejection. It doubles with each consecutive ejection up to
	// Max. The defaults are 1 s and 1 minute.
	Base, Max time.Duration
	// Probes is the number of requests, one at a time, that a replica must serve successfully
	// before it gets all its slots back; 3 by default.
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

// health records how reliable one replica is.
type health struct {
	failures      int // consecutive
	unconstrained int // of these, requests that named no hardware
	ejections     int // consecutive
	successes     int // consecutive, on probation
	onProbation   bool
	until         time.Time // end of the suspension
	ejectedFor    time.Duration
	readmitted    time.Time // when it last got all its slots back
	probe         bool      // the suspension ends with probation
	record        record
}

// record is how many of a replica's recent attempts failed; older attempts decay.
type record struct{ failed, n float64 }

// recordMemory is the number of attempts after which an old one counts 1/e.
const recordMemory = 50

func (r *record) add(failed float64) {
	keep := 1 - 1.0/recordMemory
	r.failed, r.n = r.failed*keep+failed, r.n*keep+1
}

func (r *record) failureRate() float64 { return r.failed / max(r.n, 1) }

// maxBusyPause limits how long one refusal keeps a busy replica without requests, so that an answer
// meant for one client cannot disable a replica.
const maxBusyPause = 250 * time.Millisecond

// judge records the result of an attempt and ejects the replica or takes it back.
func (f *fleet) judge(s *server, t *Ticket, verdict Verdict, pause time.Duration, now time.Time) {
	h, rule := &s.health, f.ejection
	switch verdict {
	case Served:
		h.failures, h.unconstrained = 0, 0
		h.record.add(0)
		if !h.onProbation {
			break
		}
		if h.successes++; h.successes >= rule.Probes {
			*h = health{ejections: h.ejections, ejectedFor: h.ejectedFor, readmitted: now}
		}
	case Busy:
		f.suspend(s, now.Add(min(max(pause, 10*time.Millisecond), maxBusyPause)), false)
	case Unreachable:
		f.index.clear(s.prefixes) // after a restart its cache is empty
		f.eject(s, now)
	case Failed:
		h.failures++
		if t.rule.unconstrained() {
			h.unconstrained++
		}
		h.record.add(1)
		switch {
		case h.onProbation, f.isOutlier(s), h.failures >= rule.Failures && f.canSpare(s),
			h.unconstrained >= lastReplicaFactor*rule.Failures && f.othersServe(s):
			f.eject(s, now)
		}
	}
}

// lastReplicaFactor is the factor by which more consecutive failures are needed to eject the last replica of its
// class than any other.
const lastReplicaFactor = 4

// canSpare reports whether at least half of the slots of the replica's class remain without it.
// Answers alone never eject the second half, unless others of the class answer successfully: the
// requests are a more likely cause than every replica, and a client that names the class can send
// them to each.
func (f *fleet) canSpare(s *server) bool {
	left, all := 0, 0
	for _, o := range f.all {
		if o.leaving || o.Class != s.Class {
			continue
		}
		all += o.Slots
		if o != s && o.suspension < 0 && !o.health.onProbation {
			left += o.Slots
		}
	}
	return 2*left >= all
}

// othersServe reports whether replicas of other classes succeed more often than not. Then a replica
// that fails for every client gets no requests that they can serve.
func (f *fleet) othersServe(s *server) bool {
	others := f.sumRecords(func(o *server) bool { return o.Class != s.Class })
	return others.n >= 10 && others.failureRate() < 0.5
}

// isOutlier reports whether the replica fails far more often than the other usable replicas of its
// class, beyond what chance explains with so few attempts.
func (f *fleet) isOutlier(s *server) bool {
	own := s.health.record
	if own.n < 10 {
		return false
	}
	others := f.sumRecords(func(o *server) bool { return o != s && o.Class == s.Class })
	return others.n >= 10 && own.failureRate() > 2*others.failureRate()+0.1+1/math.Sqrt(own.n)
}

// sumRecords adds up the records of usable replicas.
func (f *fleet) sumRecords(of func(*server) bool) (sum record) {
	for _, o := range f.all {
		if o.usable() > 0 && of(o) {
			sum.failed += o.health.record.failed
			sum.n += o.health.record.n
		}
	}
	return sum
}

// forgetFactor is the multiple of the duration of its ejection for which a replica must serve
// successfully until its ejections are forgotten.
const forgetFactor = 10

func (f *fleet) eject(s *server, now time.Time) {
	h, rule := &s.health, f.ejection
	if !h.onProbation && s.suspension < 0 && now.Sub(h.readmitted) > forgetFactor*h.ejectedFor {
		h.ejections = 0
	}
	h.ejectedFor = rule.Base
	for i := 0; i < h.ejections && h.ejectedFor < rule.Max; i++ {
		h.ejectedFor *= 2
	}
	h.ejectedFor = min(h.ejectedFor, rule.Max)
	h.ejections++
	h.failures, h.unconstrained, h.successes = 0, 0, 0
	f.suspend(s, now.Add(h.ejectedFor), true)
}

func (f *fleet) suspend(s *server, until time.Time, probe bool) {
	if s.suspension >= 0 {
		if until.After(s.health.until) {
			s.health.until = until
			f.suspended.fix(s.suspension)
		}
		s.health.probe = s.health.probe || probe
		return
	}
	s.health.until, s.health.probe = until, probe
	f.suspended.push(s)
}

// resume ends the suspensions whose time has passed.
func (f *fleet) resume(now time.Time) {
	for f.suspended.len() > 0 {
		s := f.suspended.items[0]
		if s.health.until.After(now) {
			return
		}
		f.suspended.remove(0)
		s.health.onProbation = s.health.onProbation || s.health.probe
		s.health.probe = false
		f.refile(s)
	}
}
