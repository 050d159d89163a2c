package dispatch

import (
	"math"
	"time"
)

// view is a walk's summary of a replica that may be sent requests: from its books, its engine and
// its kind's speed, and with what the walk has promised to it. The views of all replicas are
// contiguous in memory, because a walk reads them for each waiting request.
type view struct {
	on        *server
	prefixes  int32
	open      bool    // accepts a request now, if its cache has room
	maxPrompt int     // the longest prompt that it accepts
	cache     float64 // tokens that its cache holds, 0 if unknown
	memory    float64 // tokens of it in use
	n, kv     float64 // requests, and their tokens in the cache
	streams   float64
	backlog   float64 // seconds until it has read what it was sent
	waiting   float64 // waiting prompts that bypassed this queue
	promised  float64 // seconds of prefill

	step                      float64 // seconds of its current step
	base, perToken            float64 // seconds of a step with one more request: without tokens, and for each
	perPrompt, perPromptToken float64 // seconds of prefill, for each prompt and for each of its tokens
	slowdown                  float64 // how many times longer a token takes than a step, because of prefill meanwhile
	ahead                     float64 // seconds that future requests wait for each second of prefill
}

// walk examines the waiting requests in Tokens mode and places each where it costs least. It starts
// with a survey of the fleet.
type walk struct {
	slo      SLO
	fleet    *fleet
	averages *averages
	round    uint64 // of walks
	waiting  int    // requests at its start
	views    []view // of the available replicas
	open     int    // replicas that may still be sent requests
}

// survey builds the views of all available replicas and counts the open ones.
func (w *walk) survey(waiting int, now time.Time) {
	w.fleet.refresh(w.averages, w.slo.TPOT.Seconds(), now)
	w.round++
	w.waiting = waiting
	w.open = 0
	w.views = w.views[:0]
	w.fleet.markUnexplored(w.averages.answers, now)
	for _, s := range w.fleet.all {
		s.assumeBegun(w.averages.output, now)
		if s.usable() == 0 {
			continue
		}
		v := s.view(now)
		if v.open {
			w.open++
		}
		if w.slo.TPOT > 0 {
			w.updateRisk(s, v.backlog, v.step, now)
		}
		w.views = append(w.views, v)
	}
}

func (s *server) view(now time.Time) view {
	b, speed := &s.books, &s.tier.kind.speed
	v := view{
		on: s, prefixes: s.prefixes, maxPrompt: s.promptLimit(), cache: float64(s.KV),
		n: float64(s.active), kv: float64(b.kv), memory: float64(b.memory()), streams: float64(len(b.begun)),
		backlog: b.backlog(now),
	}
	if b.external.until.After(now) {
		v.n += b.external.running
		v.kv += b.external.kv
		v.memory += b.external.kv
		v.waiting = b.external.waiting
	}
	factor := s.slowdown.factor
	if s.tier.kind.unexplored {
		factor /= exploreFactor
	}
	v.step = factor * speed.stepTime(v.n, v.kv)
	v.base, v.perToken = factor*speed.stepTime(v.n+1, v.kv), factor*speed.step[2]
	v.perPrompt, v.perPromptToken = factor*speed.prefill[0], factor*speed.prefill[1]
	recent, long := b.prefillShare.of(now)
	long = min(long, maxPrefillShare)
	v.slowdown, v.ahead = 1/(1-min(recent, maxPrefillShare)), futureWeight*long/(1-long)
	bounded := s.Slots > 1 || s.health.onProbation
	if full := bounded && s.active >= s.usable(); !full {
		v.open = s.active == 0 || v.backlog <= maxBacklog
	}
	return v
}

// firstAfter returns the seconds until the first token of a request whose prefill takes work seconds.
func (v *view) firstAfter(work float64) float64 {
	return v.backlog + v.promised + v.waiting*work + work
}

// promptLimit returns the longest prompt that a replica accepts.
func (s *server) promptLimit() int {
	most := math.MaxInt
	if s.KV > 0 {
		most = s.KV
	}
	if s.MaxPrompt > 0 {
		most = min(most, s.MaxPrompt)
	}
	return most
}

// longest returns the longest prompt that any replica of a placement accepts, available or not.
// Longer prompts count as this long: lengths are estimates, so only an engine can tell that a
// prompt is too long. The result is valid for one walk.
func (w *walk) longest(p *placement) int {
	if p.round == w.round {
		return p.longest
	}
	p.round, p.longest = w.round, 0
	for _, s := range w.fleet.all {
		if !s.leaving && p.allows(s.Class) {
			p.longest = max(p.longest, s.promptLimit())
		}
	}
	return p.longest
}
