package main

import (
	"fmt"
	"io"
	"math"

	"aliquot.example/e2e/modelserver/engine"
)

// limits is how much of two limits of a replica's time a request uses, in seconds.
//
// A replica whose answers get a token every T seconds makes 1/T steps a second. Each takes
// the overhead, and reads the weights unless it computes for longer, as it does while it
// reads a prompt. So in one second
//
//	steps:      Step/T + sum of (decode + reading beyond the weights) <= 1
//	arithmetic: Overhead/T + sum of (decode + all tokens' arithmetic) <= 1
//
// where decode is what each token of the answer adds to its step, and attention. Both hold
// for whatever else the replica does.
type limits [2]float64

func use(h engine.Hardware, prompt, output int) limits {
	t, p, o := h.Truth(), float64(prompt), float64(output)
	decode := o*(t.Sequence+t.Token*(p+o/2)) + t.Prefill*t.Growth*p*p/2
	weights := math.Ceil(p/float64(h.Budget)) * (t.Step - h.Overhead)
	return limits{decode + max(0, p*t.Prefill-weights), decode + (p+o)*t.Prefill}
}

// attainable returns a rate, in requests per second, above which no way of dispatching can
// keep the objective's time per token for all calls, even if it knows the lengths of all
// answers. It leaves out what makes it worse: bursts, full caches, time to the first
// token. Prompts must share nothing.
//
// It is the dual of a linear program. With any price for each second of each limit, every
// request costs at least what it costs on its cheapest class, and the fleet has only so many
// seconds to sell. The prices rise where much is sold (multiplicative weights).
func attainable(f fleet, calls []*request) float64 {
	const rounds, rise = 1000, 3.0
	hardware := make([]engine.Hardware, len(f.parts))
	seconds := make([]limits, len(f.parts)) // that all replicas of a class have
	for k, p := range f.parts {
		h, ok := engine.Class(p.class)
		if !ok {
			panic("no class " + p.class)
		}
		hardware[k], seconds[k] = h, limits{
			float64(p.count) * (1 - h.Truth().Step/tpotLimit.Seconds()),
			float64(p.count) * (1 - h.Overhead/tpotLimit.Seconds()),
		}
	}
	uses := make([][]limits, len(calls)) // by class, in parts of its seconds
	for i, c := range calls {
		for k, h := range hardware {
			u := use(h, c.prompt, c.output)
			uses[i] = append(uses[i], limits{u[0] / seconds[k][0], u[1] / seconds[k][1]})
		}
	}
	best := math.Inf(1)
	price := make([]limits, len(f.parts))
	for k := range price {
		price[k] = limits{1, 1}
	}
	for range rounds {
		sold, cost := sell(uses, price)
		most, all := 0.0, 0.0
		for k := range price {
			all += price[k][0] + price[k][1]
			most = max(most, sold[k][0], sold[k][1])
		}
		best = min(best, float64(len(calls))*all/cost)
		for k := range price {
			price[k][0] *= math.Exp(rise / math.Sqrt(rounds) * sold[k][0] / most)
			price[k][1] *= math.Exp(rise / math.Sqrt(rounds) * sold[k][1] / most)
		}
	}
	return best
}

// sell gives each call to its cheapest class and returns what that uses of the classes, and
// what it costs.
func sell(uses [][]limits, price []limits) (sold []limits, cost float64) {
	sold = make([]limits, len(price))
	for _, u := range uses {
		k, least := 0, math.Inf(1)
		for i := range u {
			if c := price[i][0]*u[i][0] + price[i][1]*u[i][1]; c < least {
				k, least = i, c
			}
		}
		sold[k][0] += u[k][0]
		sold[k][1] += u[k][1]
		cost += least
	}
	return sold, cost
}

// bounds prints for each seed up to which load all requests could keep the objective at
// best: over the whole replay, and over the fifth of it for which that is least.
func (r race) bounds(w io.Writer, full float64) {
	fmt.Fprint(w, "at best all could be within the objective up to (and in the heaviest fifth)")
	for seed := range r.seeds {
		calls := cut(r.trace, uint64(seed+1), r.requests, r.rate, r.poisson)
		heaviest := math.Inf(1)
		for i := range 5 {
			heaviest = min(heaviest, attainable(r.fleet, calls[i*len(calls)/5:(i+1)*len(calls)/5]))
		}
		fmt.Fprintf(w, " %.2f (%.2f)", attainable(r.fleet, calls)/full, heaviest/full)
	}
	fmt.Fprintln(w)
}
