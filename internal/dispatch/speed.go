package dispatch

import (
	"math"
	"time"

	"aliquot.example/internal/gpu"
)

// speed is how fast one kind of hardware runs the service's model: the seconds to read a
// prompt (prefill) and the seconds of a step of its batch.
type speed struct {
	prefill [2]float64 // per prompt, and per prompt token
	step    [3]float64 // per step, per sequence in it, and per token in the cache
}

// attention is the factor by which the prefill of a token grows with each token before it.
const attention = 3.3e-5

// prefillTime returns the seconds of prefill for a prompt of which fresh tokens are not in the cache.
func (v *speed) prefillTime(fresh, prompt float64) float64 {
	return v.prefill[0] + v.prefill[1]*attentionCost(fresh, prompt)
}

// attentionCost returns the prefill cost of fresh tokens at the end of a prompt, in tokens that cost as
// much as the first one.
func attentionCost(fresh, prompt float64) float64 { return fresh * (1 + attention*(prompt-fresh/2)) }

// stepTime returns how long a step of n sequences takes with kv tokens in the cache.
func (v *speed) stepTime(n, kv float64) float64 {
	return v.step[0] + v.step[1]*n + v.step[2]*kv
}

// prefillTerms and stepTerms return the assumed seconds of each part of prefill and of a step.
func (v *speed) prefillTerms(prompts, tokens float64) [3]float64 {
	return [3]float64{v.prefill[0] * prompts, v.prefill[1] * tokens}
}

func (v *speed) stepTerms(n, kv float64) [3]float64 {
	return [3]float64{v.step[0], v.step[1] * n, v.step[2] * kv}
}

// assumed returns the speed of a replica before anything is measured: an 8B model in 16 bits on an
// H100, derived from its data sheet (half of the peak FLOPS during prefill, 0.8 of the
// memory bandwidth during a step), scaled to the class. compute and bandwidth are relative to an H100.
func assumed(compute, bandwidth float64) speed {
	return speed{
		prefill: [2]float64{0.01 / compute, 3.6e-5 / compute},
		step:    [3]float64{0.008 / bandwidth, 2.5e-5, 5e-8 / bandwidth},
	}
}

// assume returns the speed of a class from the hardware table or, if the table does not have it,
// from its weight.
func assume(class string, weight float64) speed {
	if h, ok := gpu.Rated(class); ok {
		part := min(1, max(weight/h.Weight, 1.0/16))
		return assumed(h.TFLOPS/989*part, h.Bandwidth/3350*part)
	}
	weight = min(max(weight, 0.03), 4)
	return assumed(weight, weight)
}

// refreshInterval is the maximum age of the speeds that decisions use.
const refreshInterval = 20 * time.Millisecond

// refresh computes the speed of every kind from what was learned.
func (f *fleet) refresh(a *averages, limit float64, now time.Time) {
	if now.Sub(f.refreshed) < refreshInterval && !f.stale {
		return
	}
	f.refreshed, f.stale = now, false
	f.compare()
	for _, k := range f.kinds {
		prefill := k.prefill.now(now,
			scale(f.kinds, k, func(k *kind) (*fit, float64) { return &k.prefill, k.prior.prefill }))
		step := k.step.now(now, scale(f.kinds, k, func(k *kind) (*fit, float64) { return &k.step, k.prior.step }))
		for i := range k.speed.prefill {
			k.speed.prefill[i] = k.assumed.prefill[i] * prefill[i]
		}
		for i := range k.speed.step {
			k.speed.step[i] = k.assumed.step[i] * step[i]
		}
		k.concurrency, k.rate = a.sustained(k, limit)
	}
}

// Curve is what was learned about the speed of a kind of replica. Prefill takes Start seconds
// for each prompt, and Prefill seconds for each token, increased by the factor Growth for every token
// before it. A step takes A + B n + C kv seconds with n requests in flight and kv tokens in their
// caches.
type Curve struct {
	Slices, Total          int
	Start, Prefill, Growth float64
	A, B, C                float64
	Prompt, Output         float64 // mean tokens, of all replicas
	KV, Slots              int     // of one replica; 0 if unknown or unlimited
	Rate                   float64 // requests per second of one replica, within the objective
	Samples                float64 // number of requests behind it
}

// prior is the correction of the hardware table's assumptions about a kind by earlier measurements,
// as logarithms, for a prompt and for a step of usual size.
type prior struct {
	known         bool
	prefill, step float64
}

// setPrior corrects the assumptions about the kind by the curve that was learned earlier, unless
// something was learned since. Every part of the curve must be as close to the hardware table as
// what is learned here.
func (k *kind) setPrior(curves []Curve) {
	if k.prior.known || k.assumed == (speed{}) || k.prefill.n > 0 || k.step.n > 0 {
		return
	}
	for _, c := range curves {
		if c.Slices != k.slices || c.Total != k.total {
			continue
		}
		before := k.assumed
		for i, v := range [...]float64{c.Start, c.Prefill} {
			k.assumed.prefill[i] = min(max(v, minCoefficient*before.prefill[i]), maxCoefficient*before.prefill[i])
		}
		for i, v := range [...]float64{c.A, c.B, c.C} {
			k.assumed.step[i] = min(max(v, minCoefficient*before.step[i]), maxCoefficient*before.step[i])
		}
		k.prior = prior{true, math.Log(k.assumed.prefillTime(1000, 1000) / before.prefillTime(1000, 1000)),
			math.Log(k.assumed.stepTime(8, 8000) / before.stepTime(8, 8000))}
	}
}

// Speed is the expected speed of replicas of one class and slice count.
type Speed struct {
	Class  string
	Slices int
	speed  speed
}

// PrefillTime returns the seconds of prefill for a prompt of so many tokens.
func (s Speed) PrefillTime(tokens float64) float64 { return s.speed.prefillTime(tokens, tokens) }

// StepTime returns the seconds of a step for n answers with kv tokens in the cache.
func (s Speed) StepTime(n, kv float64) float64 { return s.speed.stepTime(n, kv) }

// Speeds returns the expected speeds at a time in Tokens mode. For the zero time it returns the
// assumptions before anything was learned.
func (q *Queue) Speeds(now time.Time) []Speed {
	if !now.IsZero() {
		q.fleet.stale = true
		q.fleet.refresh(&q.averages, q.policy.SLO.TPOT.Seconds(), now)
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
