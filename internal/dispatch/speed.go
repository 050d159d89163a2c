package dispatch

import (
	"math"
	"time"

	"aliquot.example/internal/gpu"
)

// speed is how fast one kind of hardware runs the service's model: seconds to
// read a prompt and seconds per step of its batch.
type speed struct {
	read [2]float64 // per prompt, per token of it
	step [3]float64 // per step, per sequence in it, per token in the cache
}

// attention is how much a prompt's read time per token grows with each token
// before it.
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
func (f *fleet) refresh(u *usual, limit float64, now time.Time) {
	if now.Sub(f.refreshed) < refreshEvery && !f.unknown {
		return
	}
	f.refreshed, f.unknown = now, false
	f.compare()
	for _, k := range f.kinds {
		read := k.read.now(now, scale(f.kinds, k, func(k *kind) (*fit, float64) { return &k.read, k.told.read }))
		step := k.step.now(now, scale(f.kinds, k, func(k *kind) (*fit, float64) { return &k.step, k.told.step }))
		for i := range k.speed.read {
			k.speed.read[i] = k.assumed.read[i] * read[i]
		}
		for i := range k.speed.step {
			k.speed.step[i] = k.assumed.step[i] * step[i]
		}
		k.most, k.rate = u.sustained(k, limit)
	}
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

// tell assumes of a kind the curve that was learned earlier, unless something has been
// learned since. Every part of it must be as near to the hardware table as what is learned
// here.
func (k *kind) tell(curves []Curve) {
	if k.told.known || k.assumed == (speed{}) || k.read.n > 0 || k.step.n > 0 {
		return
	}
	for _, c := range curves {
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
		q.fleet.unknown = true
		q.fleet.refresh(&q.usual, q.policy.SLO.TPOT.Seconds(), now)
	}
	var out []Speed
	for _, k := range q.fleet.kinds {
		s := Speed{k.class, k.slices, k.speed}
		if now.IsZero() {
			s.speed = k.assumed
		}
		out = append(out, s)
	}
	return out
}
