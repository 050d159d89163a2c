package dispatch

import (
	"math"
	"sort"
	"time"

	"aliquot.example/internal/gpu"
)

// speed is how fast one kind of hardware runs the service's model: seconds to
// read a prompt and seconds per step of its batch.
type speed struct {
	read [2]float64 // per prompt, per token of it
	step [3]float64 // per step, per sequence in it, per token in the cache
}

// attention is how much a prompt's read time per token grows with each token that
// stands before it.
const attention = 3.3e-5

// reading is how long a replica reads a prompt of which fresh tokens are not in
// its cache.
func (v *speed) reading(fresh, prompt float64) float64 {
	return v.read[0] + v.read[1]*longer(fresh, prompt)
}

// longer is fresh tokens at the end of a prompt, in tokens that cost as much as
// the first one.
func longer(fresh, prompt float64) float64 { return fresh * (1 + attention*(prompt-fresh/2)) }

// stepping is how long a step of n sequences takes with kv tokens in the cache.
func (v *speed) stepping(n, kv float64) float64 {
	return v.step[0] + v.step[1]*n + v.step[2]*kv
}

// readTerms and stepTerms are the seconds that each part of reading prompts and
// of a step is assumed to take.
func (v *speed) readTerms(prompts, tokens float64) [3]float64 {
	return [3]float64{v.read[0] * prompts, v.read[1] * tokens}
}

func (v *speed) stepTerms(n, kv float64) [3]float64 {
	return [3]float64{v.step[0], v.step[1] * n, v.step[2] * kv}
}

// assumed is the speed of a replica before anything is measured: an 8B model in
// 16 bits on an H100, derived from its data sheet (half of the peak FLOPS while it
// reads, 0.8 of the memory's bandwidth while it steps), scaled to the class.
// compute and bandwidth are relative to an H100.
func assumed(compute, bandwidth float64) speed {
	return speed{
		read: [2]float64{0.01 / compute, 3.6e-5 / compute},
		step: [3]float64{0.008 / bandwidth, 2.5e-5, 5e-8 / bandwidth},
	}
}

// assume returns the speed of a class from the hardware table, or from its weight
// where the table does not know it.
func assume(class string, weight float64) speed {
	if h, ok := gpu.Rated(class); ok {
		part := min(1, max(weight/h.Weight, 1.0/16))
		return assumed(h.TFLOPS/989*part, h.Bandwidth/3350*part)
	}
	weight = min(max(weight, 0.03), 4)
	return assumed(weight, weight)
}

// refreshEvery is how old the speeds that decisions use may be.
const refreshEvery = 20 * time.Millisecond

// refresh computes the speed of every kind from what was learned.
func (q *Queue) refresh(now time.Time) {
	if now.Sub(q.refreshed) < refreshEvery && !q.unknown {
		return
	}
	q.refreshed, q.unknown = now, false
	q.compare()
	for _, k := range q.kinds {
		read := k.read.now(now, scale(q.kinds, k, func(k *kind) (*fit, float64) { return &k.read, k.told.read }))
		step := k.step.now(now, scale(q.kinds, k, func(k *kind) (*fit, float64) { return &k.step, k.told.step }))
		for i := range k.speed.read {
			k.speed.read[i] = k.assumed.read[i] * read[i]
		}
		for i := range k.speed.step {
			k.speed.step[i] = k.assumed.step[i] * step[i]
		}
		k.most, k.rate = q.sustained(k)
	}
}

// mostSequences bounds a batch whose cache and step do not: what engines do by
// default.
const mostSequences = 256

// sustained returns how many mean requests a replica of a kind serves at once at
// most, and how many a second it then serves. It is bounded by the replica's
// slots, its cache, and where an objective is set by the time between tokens.
//
// With n requests at once, each of output tokens and with work seconds of reading,
// a replica serves rate = n/(output*step + n*work): reading holds up the steps of
// all.
func (q *Queue) sustained(k *kind) (n, rate float64) {
	prompt := max(1, q.prompt)
	held := prompt + q.output/2
	most := float64(mostSequences)
	if k.slots > 1 {
		most = float64(k.slots)
	}
	if k.kv > 0 {
		most = max(1, min(most, float64(k.kv)/(prompt+q.output)))
	}
	work := k.speed.reading(prompt, prompt)
	at := func(n float64) (rate, token float64) {
		step := k.speed.stepping(n, n*held)
		rate = n / (q.output*step + n*work)
		return rate, step / max(1-rate*work, 1-fullest)
	}
	limit := q.policy.SLO.TPOT.Seconds()
	misses := func(i int) bool {
		_, token := at(float64(i + 2))
		return limit > 0 && token > limit
	}
	n = 1 + float64(sort.Search(int(most)-1, misses))
	rate, _ = at(n)
	return n, rate
}

// Curve is what was learned of how long a kind of replica takes, in seconds: Start and
// Prefill for each token to read a prompt, and for each of them Growth times as much again
// for every token before it; A + B n + C kv for a step with n requests in flight and kv
// tokens in their caches.
type Curve struct {
	Slices, Total          int
	Start, Prefill, Growth float64
	A, B, C                float64
	Prompt, Output         float64 // mean tokens, of all replicas
	KV, Slots              int     // of one replica; 0 where it is unknown or no bound
	Rate                   float64 // requests a second of one replica, within the objective
	Samples                float64 // requests that it was learned from
}

// told is what earlier measurements made of what the hardware table assumes of a kind, as
// logarithms, of a prompt and of a step of usual size.
type told struct {
	known      bool
	read, step float64
}

// tell takes the curve that was learned before as what is assumed of a kind, unless
// something was learned of it since. No part of it may be so far from the table that it
// could not be learned otherwise.
func (q *Queue) tell(k *kind) {
	if k.told.known || k.assumed == (speed{}) || k.read.n > 0 || k.step.n > 0 {
		return
	}
	for _, c := range q.seeds[k.class].Curves {
		if c.Slices != k.slices || c.Total != k.total {
			continue
		}
		before := k.assumed
		for i, v := range [...]float64{c.Start, c.Prefill} {
			k.assumed.read[i] = min(max(v, lowest*before.read[i]), highest*before.read[i])
		}
		for i, v := range [...]float64{c.A, c.B, c.C} {
			k.assumed.step[i] = min(max(v, lowest*before.step[i]), highest*before.step[i])
		}
		k.told = told{true, math.Log(k.assumed.reading(1000, 1000) / before.reading(1000, 1000)),
			math.Log(k.assumed.stepping(8, 8000) / before.stepping(8, 8000))}
	}
}

func (q *Queue) curveOf(k *kind) Curve {
	v := &k.speed
	c := Curve{
		Slices: k.slices, Total: k.total, Start: v.read[0], Prefill: v.read[1], Growth: attention,
		A: v.step[0], B: v.step[1], C: v.step[2], Prompt: q.prompt, Output: q.output, KV: k.kv, Rate: k.rate,
		Samples: k.learned.samples,
	}
	if k.slots > 1 {
		c.Slots = k.slots
	}
	return c
}

// Speed is how fast replicas of one class and slice count are expected to be.
type Speed struct {
	Class  string
	Slices int
	speed  speed
}

// Reading is the seconds in which a prompt of so many tokens is read.
func (s Speed) Reading(tokens float64) float64 { return s.speed.reading(tokens, tokens) }

// Stepping is the seconds of a step for n answers with kv tokens in the cache.
func (s Speed) Stepping(n, kv float64) float64 { return s.speed.stepping(n, kv) }

// Speeds returns what is expected at a time in Tokens mode, and for the zero time what
// was before anything was learned.
func (q *Queue) Speeds(now time.Time) []Speed {
	if !now.IsZero() {
		q.unknown = true
		q.refresh(now)
	}
	var out []Speed
	for _, k := range q.kinds {
		s := Speed{k.class, k.slices, k.speed}
		if now.IsZero() {
			s.speed = k.assumed
		}
		out = append(out, s)
	}
	return out
}
