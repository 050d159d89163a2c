package dispatch

import (
	"math"
	"slices"
	"time"
)

// missCost is the cost in seconds of a request that misses the objective: its first token is late, or
// its tokens are too far apart. The size of the miss does not matter, so any delay costs the same.
const missCost = 20

const (
	// overrunCost is the cost of each second that an answer is expected to take beyond the fraction
	// overrunStart of the time that the objective leaves for its tokens. The expectation is vague, so
	// there is no step at the limit: the load moves gradually away from replicas where tokens are
	// slow.
	overrunCost  = 0.3
	overrunStart = 0.8
)

const (
	// maxWaitFraction is the fraction of the objective's time to the first token for which a request may
	// wait for answers in progress that it would make miss the objective.
	maxWaitFraction = 0.75
	// minMisses is the number of such answers that is worth the wait.
	minMisses = 0.1
)

// shouldDefer reports whether it is better to send a request to the replica later: its first token would
// still be in time, and its prefill now would make answers there miss the objective. While the
// replica has no prefill, they end or gain time.
func (w *walk) shouldDefer(v *view, z need, work float64) bool {
	limit := w.slo.TTFT.Seconds()
	return z.waited+v.firstAfter(work) < maxWaitFraction*limit && v.on.books.risk.of(work) > minMisses
}

// lengths is a sample of how long answers are, in multiples of the expected length.
type lengths struct {
	ring   [256]float64
	n      int // total number so far
	sample [lengthSamples]float64
}

const (
	// lengthSamples answers represent all, each for the same fraction of them.
	lengthSamples = 16
	// The samples are chosen again every lengthsEvery answers.
	lengthsEvery = 16
)

func (l *lengths) add(ratio float64) {
	l.ring[l.n%len(l.ring)] = ratio
	l.n++
	if l.n%lengthsEvery != 0 {
		return
	}
	sorted := l.ring
	seen := sorted[:min(l.n, len(sorted))]
	slices.Sort(seen)
	for i := range l.sample {
		l.sample[i] = seen[(2*i+1)*len(seen)/(2*lengthSamples)]
	}
}

// risk is how many answers of a replica would miss the objective's time between tokens if the
// replica spent some more seconds on prefill, in addition to those that miss it anyway.
type risk struct {
	upTo  [riskEdges]float64 // by edge
	at    time.Time
	stale bool
}

const (
	// The edges are 1 and 1.5 times the powers of two, starting at 2^minEdge seconds.
	riskEdges = 22
	minEdge   = -6
	// maxRiskAge is the maximum age of a replica's risk if no answer starts or ends.
	maxRiskAge = time.Second
)

// edge returns the last edge that is not above x, and the position of x on the way to the next
// edge.
func edge(x float64) (at int, part float64) {
	bits := math.Float64bits(x)
	at = int(bits>>51) - 2*(1023+minEdge)
	if at < 0 {
		return -1, 0
	}
	if at >= riskEdges-1 {
		return riskEdges - 1, 0
	}
	return at, float64(bits&(1<<51-1)) / (1 << 51)
}

func (r *risk) of(seconds float64) float64 {
	at, part := edge(seconds)
	if at < 0 {
		return 0
	}
	if at == riskEdges-1 {
		return r.upTo[at]
	}
	return r.upTo[at] + part*(r.upTo[at+1]-r.upTo[at])
}

// updateRisk computes a replica's risk from how much time each of its answers has left.
//
// An answer of n tokens may take n-1 times the limit. It has used the time since its first token.
// It still needs a step for each further token, and the prompts that the replica was sent after it
// still have to be read. The number of further tokens is unknown: it may be any of the usual
// lengths that the answer has not exceeded yet.
func (w *walk) updateRisk(s *server, backlog, step float64, now time.Time) {
	b := &s.books
	r := &b.risk
	if !r.stale && now.Sub(r.at) < maxRiskAge {
		return
	}
	*r = risk{at: now}
	limit := w.slo.TPOT.Seconds()
	for _, t := range b.begun {
		if !t.Whole {
			w.addRisk(r, t, now.Sub(t.entry.first).Seconds()+backlog, limit, step)
		}
	}
	behind := 0.0
	for i := len(b.pending) - 1; i >= 0; i-- {
		if t := b.pending[i]; !t.Whole {
			w.addRisk(r, t, behind, limit, step)
		}
		behind += b.pending[i].entry.work
	}
	r.sum()
}

// addRisk adds an answer to a risk that is not summed up yet.
func (w *walk) addRisk(r *risk, t *Ticket, used, limit, step float64) {
	made := float64(max(1, t.entry.tokens))
	expected := w.averages.needOf(t).output
	passed := 0 // lengths that it has exceeded
	for passed < lengthSamples && w.averages.lengths.sample[passed]*expected <= made {
		passed++
	}
	for _, ratio := range w.averages.lengths.sample[passed:] {
		length := ratio * expected
		if left := limit*(length-1) - used - (length-made)*step; left >= 0 {
			r.add(left, 1/float64(lengthSamples-passed))
		}
	}
}

// add counts a fraction of an answer that misses the objective after left more seconds. An answer
// that has more time left than the last edge is not at risk.
func (r *risk) add(left, part float64) {
	if at, _ := edge(left); at+1 < riskEdges {
		r.upTo[at+1] += part
	}
}

// sum turns the added counts in upTo into cumulative ones.
func (r *risk) sum() {
	for i := range r.upTo[1:] {
		r.upTo[i+1] += r.upTo[i]
	}
}
