package dispatch

import (
	"math"
	"time"
)

// view is what a walk sees of a replica that may be sent requests: what its books, its
// engine and its kind's speed come to, and what the walk has promised to it. The views of
// all replicas lie side by side, since a walk reads them for each request that waits.
type view struct {
	on       *server
	shelf    int32
	open     bool    // takes a request now, if its cache has room
	takes    int     // the longest prompt
	cache    float64 // tokens that its cache holds, 0 where that is unknown
	memory   float64 // tokens of it in use
	n, kv    float64 // requests, and their tokens in the cache
	streams  float64
	backlog  float64 // seconds until it has read what it has
	waiting  float64 // prompts in it from past this queue
	promised float64 // seconds of reading

	step               float64 // seconds of its present step
	base, perToken     float64 // of a step with one request more, without and for each token of that
	perPrompt, perRead float64 // seconds of reading, for each prompt and each token
	slowed             float64 // how many times longer a token takes than a step, as it reads meanwhile
	ahead              float64 // seconds that requests to come wait for each second of reading
}

// walk looks at the requests that wait, in Tokens mode, and places each where it costs
// least. It starts with a survey of the fleet.
type walk struct {
	slo     SLO
	fleet   *fleet
	usual   *usual
	round   uint64 // of walks
	waiting int    // requests, at its start
	views   []view // of the replicas that are up
	opened  int    // replicas that may still be sent requests
}

// survey takes the views of all replicas that are up, and counts the open ones.
func (w *walk) survey(waiting int, now time.Time) {
	w.fleet.refresh(w.usual, w.slo.TPOT.Seconds(), now)
	w.round++
	w.waiting = waiting
	w.opened = 0
	w.views = w.views[:0]
	w.fleet.wonder(w.usual.answers, now)
	for _, s := range w.fleet.all {
		s.assumeBegun(w.usual.output, now)
		if s.usable() == 0 {
			continue
		}
		v := s.look(now)
		if v.open {
			w.opened++
		}
		if w.slo.TPOT > 0 {
			w.reckon(s, v.backlog, v.step, now)
		}
		w.views = append(w.views, v)
	}
}

func (s *server) look(now time.Time) view {
	b, speed := &s.books, &s.tier.kind.speed
	v := view{
		on: s, shelf: s.shelf, takes: s.takes(), cache: float64(s.KV),
		n: float64(s.active), kv: float64(b.kv), memory: float64(b.memory()), streams: float64(len(b.begun)),
		backlog: b.backlog(now),
	}
	if b.foreign.until.After(now) {
		v.n += b.foreign.running
		v.kv += b.foreign.kv
		v.memory += b.foreign.kv
		v.waiting = b.foreign.waiting
	}
	drag := s.drag.factor
	if s.tier.kind.untried {
		drag /= doubt
	}
	v.step = drag * speed.stepping(v.n, v.kv)
	v.base, v.perToken = drag*speed.stepping(v.n+1, v.kv), drag*speed.step[2]
	v.perPrompt, v.perRead = drag*speed.read[0], drag*speed.read[1]
	late, long := b.share.of(now)
	long = min(long, fullest)
	v.slowed, v.ahead = 1/(1-min(late, fullest)), coming*long/(1-long)
	bounded := s.Slots > 1 || s.health.onProbation
	if full := bounded && s.active >= s.usable(); !full {
		v.open = s.active == 0 || v.backlog <= hold
	}
	return v
}

// firstAfter is the seconds until the first token of a request that the replica reads
// for work seconds.
func (v *view) firstAfter(work float64) float64 {
	return v.backlog + v.promised + v.waiting*work + work
}

// takes is the longest prompt that a replica takes.
func (s *server) takes() int {
	most := math.MaxInt
	if s.KV > 0 {
		most = s.KV
	}
	if s.MaxPrompt > 0 {
		most = min(most, s.MaxPrompt)
	}
	return most
}

// longest is the longest prompt that any replica of a placement takes, up or not; longer
// ones count as this long. Lengths are estimates, so only an engine can tell that a prompt
// is too long. The result holds for one walk.
func (w *walk) longest(p *placement) int {
	if p.round == w.round {
		return p.longest
	}
	p.round, p.longest = w.round, 0
	for _, s := range w.fleet.all {
		if !s.leaving && p.allows(s.Class) {
			p.longest = max(p.longest, s.takes())
		}
	}
	return p.longest
}
