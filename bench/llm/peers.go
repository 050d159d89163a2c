package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// early is the part that peers share: each binds a request when it comes, and counts
// what it has sent.
type early struct {
	pick func(s *sim, r *request) int
	// began and ended, where set, are called at the first token and after the last.
	began, ended func(r *request)
	active       []int
}

func (p *early) arrive(s *sim, r *request) {
	if p.active == nil {
		p.active = make([]int, len(s.replicas))
	}
	to := p.pick(s, r)
	p.active[to]++
	s.send(r, to)
}

func (p *early) token(_ *sim, r *request) {
	if r.sequence.Made() == 1 && p.began != nil {
		p.began(r)
	}
	if r.sequence.Made() == r.output {
		p.active[r.replica]--
		if p.ended != nil {
			p.ended(r)
		}
	}
}

func (p *early) settled(*sim)        {}
func (p *early) wake() time.Duration { return never }

// least returns the index of the lowest cost, a random one of several.
func least(n int, random *rand.Rand, cost func(i int) float64) int {
	best, lowest, ties := 0, math.Inf(1), 0
	for i := range n {
		switch c := cost(i); {
		case c < lowest:
			best, lowest, ties = i, c, 1
		case c == lowest:
			if ties++; random.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best
}

func roundRobin(*rand.Rand) policy {
	next := -1
	return &early{pick: func(s *sim, _ *request) int {
		next = (next + 1) % len(s.replicas)
		return next
	}}
}

// leastRequest sends to the replica with the fewest requests.
func leastRequest(random *rand.Rand) policy {
	p := &early{}
	p.pick = func(s *sim, _ *request) int {
		return least(len(s.replicas), random, func(i int) float64 { return float64(p.active[i]) })
	}
	return p
}

// weightedLeast divides the requests by the hardware's weight, as HAProxy's leastconn
// and nginx's least_conn do with weights.
func weightedLeast(random *rand.Rand) policy {
	p := &early{}
	p.pick = func(s *sim, _ *request) int {
		return least(len(s.replicas), random, func(i int) float64 {
			return float64(p.active[i]+1) / s.replicas[i].weight
		})
	}
	return p
}

// powerOfTwo is Envoy's least request: the better of two drawn at random.
func powerOfTwo(random *rand.Rand) policy {
	p := &early{}
	p.pick = func(s *sim, _ *request) int {
		a, b := random.IntN(len(s.replicas)), random.IntN(len(s.replicas)-1)
		if b >= a {
			b++
		}
		if p.active[b] < p.active[a] {
			return b
		}
		return a
	}
	return p
}

// mooncake is the least predicted time to the first token (FAST 2025, algorithm 1,
// without moving KV caches), with the replica's true constants and an exact index.
func mooncake(random *rand.Rand) policy {
	pending := map[int]time.Duration{}
	cost := map[*request]time.Duration{}
	p := &early{}
	prefill := func(s *sim, i int, r *request) time.Duration {
		hit := min(s.replicas[i].engine.Cached(r.prefix), r.prompt-1)
		return s.replicas[i].hardware.Prefill(r.prompt-hit, r.prompt)
	}
	p.pick = func(s *sim, r *request) int {
		to := least(len(s.replicas), random, func(i int) float64 { return (pending[i] + prefill(s, i, r)).Seconds() })
		cost[r] = prefill(s, to, r)
		pending[to] += cost[r]
		return to
	}
	p.began = func(r *request) {
		pending[r.replica] -= cost[r]
		delete(cost, r)
	}
	return p
}
