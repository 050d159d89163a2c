package main

import (
	"math"
	"math/rand/v2"
	"time"

	"aliquot.example/e2e/modelserver/engine"
	"aliquot.example/internal/dispatch"
)

const never = time.Duration(math.MaxInt64)

// request is one call of a replay and what became of it.
type request struct {
	traced
	id               int
	sequence         engine.Sequence
	gateway          *gateway         // that has it, of the product's
	ticket           *dispatch.Ticket // in its queue
	replica          int
	sent, first, end time.Duration
}

func (r *request) ttft() time.Duration { return r.first - r.at }

// tpot is the mean time between two tokens of the answer.
func (r *request) tpot() time.Duration {
	if r.output < 2 {
		return 0
	}
	return (r.end - r.first) / time.Duration(r.output-1)
}

// replica is a model server in simulated time.
type replica struct {
	hardware engine.Hardware
	weight   float64
	engine   *engine.Engine
	ends     time.Duration // of the present step, never while idle
}

// policy decides which replica serves a request, and when.
type policy interface {
	// arrive takes a request. It or a later call sends it.
	arrive(s *sim, r *request)
	// token is called after each token of an answer.
	token(s *sim, r *request)
	// settled is called when all that happened at one instant was reported.
	settled(s *sim)
	// wake is when settled must be called next even if nothing happens.
	wake() time.Duration
}

// sim is one replay.
type sim struct {
	now      time.Duration
	replicas []*replica
	policy   policy
	calls    []*request
	random   *rand.Rand
}

// run replays the calls, which are in order of arrival, until all are served.
func (s *sim) run() {
	next, left := 0, len(s.calls)
	s.policy.settled(s)
	for left > 0 {
		at, who := s.policy.wake(), -1
		for i, r := range s.replicas {
			if r.ends < at {
				at, who = r.ends, i
			}
		}
		if next < len(s.calls) && s.calls[next].at <= at {
			s.now = max(s.now, s.calls[next].at)
			s.policy.arrive(s, s.calls[next])
			next++
		} else if s.now = max(s.now, at); who >= 0 {
			left -= s.step(s.replicas[who])
		} else if at == never {
			panic("requests wait and nothing will happen")
		}
		s.policy.settled(s)
	}
}

// step ends a replica's step, begins its next one and then reports the tokens: what
// is sent because of them is too late for that step, as it is on the wire.
func (s *sim) step(r *replica) (served int) {
	tokens := r.engine.End()
	for _, q := range tokens {
		c := q.Value.(*request)
		if q.Made() == 1 {
			c.first = s.now
		}
		if q.Made() == q.Output {
			c.end = s.now
			served++
		}
	}
	s.begin(r)
	for _, q := range tokens {
		s.policy.token(s, q.Value.(*request))
	}
	return served
}

func (s *sim) begin(r *replica) {
	r.ends = never
	if took, ok := r.engine.Begin(); ok {
		r.ends = s.now + took
	}
}

// send gives a request to a replica.
func (s *sim) send(c *request, to int) {
	c.replica, c.sent = to, s.now
	c.sequence = engine.Sequence{Prompt: c.prompt, Output: c.output, Prefix: c.prefix, Value: c}
	r := s.replicas[to]
	if err := r.engine.Add(&c.sequence); err != nil {
		panic(err) // replays hold nothing that a replica cannot take
	}
	if r.ends == never {
		s.begin(r)
	}
}
