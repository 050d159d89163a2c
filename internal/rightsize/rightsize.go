// Package rightsize decides which kind of replica serves a service within its objective at
// the least cost. It is pure: figures in, an order out.
package rightsize

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Option is one kind of replica, and what one of it does within the objective.
type Option struct {
	Class string
	// Slices is what a replica has of one GPU that is cut into Total, or where Total is 1,
	// how many whole GPUs.
	Slices, Total int
	// Concurrency is how many requests it serves at once, and Rate how many a second; 0 where
	// it misses the objective with one.
	Concurrency, Rate float64
	// KV is how many tokens its cache holds, and Memory how much memory in MiB its part of
	// the GPU has; 0 where that is not known.
	KV, Memory float64
	// GPU is the cost of a whole GPU for an hour, in any unit; 0 where it is not known.
	GPU float64
	// From says where the figures are from.
	From string
}

// part is which part of a GPU a replica has, or how many GPUs.
func (o Option) part() float64 { return float64(o.Slices) / float64(max(1, o.Total)) }

// Cost of a replica for an hour.
func (o Option) Cost() float64 { return o.GPU * o.part() }

// Need is what the replicas of a service must do.
type Need struct {
	// Rate is how many requests a second come at the busiest time, 0 where that is not known:
	// then options are compared by the cost of a request.
	Rate float64
	// Longest is how many tokens a single request may have, which every cache must hold.
	Longest float64
	// Memory in MiB is what the weights and the least cache take, 0 where that is not known.
	Memory float64
}

// Choice is an option with what it comes to.
type Choice struct {
	Option
	// Refused says why the option cannot be used, "" where it can.
	Refused string
	// Replicas is how many serve the need, and Cost what they cost for an hour. Without a
	// rate they are 0.
	Replicas int
	Cost     float64
	// PerMillion is the cost of a million requests on replicas that are busy.
	PerMillion float64
}

// mostReplicas bounds a count.
const mostReplicas = 1 << 20

// Choose orders the options: those that can be used by their cost, the cheapest first, then
// those that cannot. Of equal cost the one with fewer replicas comes first, then the one that
// takes less of a GPU. An option without a cost counts as one GPU at 1 where no option has a
// cost, and cannot be compared with those that have one.
func Choose(options []Option, need Need) []Choice {
	priced := slices.ContainsFunc(options, func(o Option) bool { return o.GPU > 0 })
	out := make([]Choice, len(options))
	for i, o := range options {
		c := Choice{Option: o, Refused: o.Refusal(need)}
		if !priced {
			o.GPU = 1
		} else if o.GPU <= 0 && c.Refused == "" {
			c.Refused = fmt.Sprintf("the cost of %s is not known", o.Class)
		}
		if c.Refused == "" {
			c.PerMillion = o.Cost() / (o.Rate * 3600) * 1e6
			if need.Rate > 0 {
				c.Replicas = int(min(max(1, math.Ceil(need.Rate/o.Rate)), mostReplicas))
				c.Cost = float64(c.Replicas) * o.Cost()
			}
		}
		out[i] = c
	}
	slices.SortStableFunc(out, func(a, b Choice) int {
		if usable := (a.Refused == ""); usable != (b.Refused == "") {
			if usable {
				return -1
			}
			return 1
		}
		return cmp.Or(
			cmp.Compare(a.Cost, b.Cost), cmp.Compare(a.PerMillion, b.PerMillion), cmp.Compare(a.Replicas, b.Replicas),
			cmp.Compare(a.part(), b.part()), cmp.Compare(a.Class, b.Class),
		)
	})
	return out
}

// Refusal says why an option cannot be used for a need, "" where it can.
func (o Option) Refusal(need Need) string {
	switch {
	case o.KV > 0 && o.KV < need.Longest:
		return fmt.Sprintf("its cache holds %.0f tokens, a request may have %.0f", o.KV, need.Longest)
	case o.Memory > 0 && o.Memory < need.Memory:
		return fmt.Sprintf("it has %.0f MiB, the weights and the cache need %.0f", o.Memory, need.Memory)
	case !(o.Rate > 0) || !(o.Concurrency >= 1):
		return "it misses the objective with a single request"
	case o.Slices < 1:
		return "it has no slice"
	}
	return ""
}
