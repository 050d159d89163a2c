// Package rightsize decides which kind of replica serves a service within its objective at the
// least cost. It is pure.
package rightsize

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Option is one kind of replica, and what one replica serves within the objective.
type Option struct {
	Class string
	// Slices is how many slices a replica has of a GPU that is cut into Total, or, if Total is 1,
	// how many whole GPUs.
	Slices, Total int
	// Concurrency is the number of concurrent requests, and Rate the requests per second. Both are
	// 0 if the replica misses the objective with one request.
	Concurrency, Rate float64
	// KV is the size of the cache in tokens, and Memory the memory of the replica's part of the GPU
	// in MiB. 0 is unknown.
	KV, Memory float64
	// GPU is the cost of a whole GPU per hour, in any unit. 0 is unknown.
	GPU float64
	// From describes the source of the figures.
	From string
}

// part returns the number of GPUs of a replica, usually a fraction.
func (o Option) part() float64 { return float64(o.Slices) / float64(max(1, o.Total)) }

// Cost returns the cost of a replica per hour.
func (o Option) Cost() float64 { return o.GPU * o.part() }

// Need is what the replicas of a service must provide.
type Need struct {
	// Rate is the requests per second at the busiest time. If it is 0 (unknown), options are
	// compared by their cost per request.
	Rate float64
	// MaxTokens is the largest number of tokens of a single request. Every cache must hold it.
	MaxTokens float64
	// Memory is the MiB that weights and the minimum cache take, 0 if unknown.
	Memory float64
}

// Choice is an option and its evaluation.
type Choice struct {
	Option
	// Refused is why the option cannot be used, "" if it can.
	Refused string
	// Replicas is the number of replicas for the need, and Cost their cost per hour. Both are 0
	// without a rate.
	Replicas int
	Cost     float64
	// PerMillion is the cost of a million requests on busy replicas.
	PerMillion float64
}

// maxReplicas bounds a count.
const maxReplicas = 1 << 20

// Choose sorts the options: usable ones first, by cost, then by the cost per request, then by fewer
// replicas, then by the smaller part of a GPU. If no option has a cost, each GPU costs 1. If only
// some have one, options without it are not usable.
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
				c.Replicas = int(min(max(1, math.Ceil(need.Rate/o.Rate)), maxReplicas))
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

// Refusal returns why an option cannot be used for a need, "" if it can.
func (o Option) Refusal(need Need) string {
	switch {
	case o.KV > 0 && o.KV < need.MaxTokens:
		return fmt.Sprintf("its cache holds %.0f tokens, a request may have %.0f", o.KV, need.MaxTokens)
	case o.Memory > 0 && o.Memory < need.Memory:
		return fmt.Sprintf("it has %.0f MiB, the weights and the cache need %.0f", o.Memory, need.Memory)
	case !(o.Rate > 0) || !(o.Concurrency >= 1):
		return "it misses the objective with a single request"
	case o.Slices < 1:
		return "it has no slice"
	}
	return ""
}
