package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"text/tabwriter"
	"time"

	"aliquot.example/simulate"
)

// ramp is a service whose demand rises steadily and then stays at its maximum.
type ramp struct {
	from, to float64 // concurrent requests
	// quiet is how long the demand stays at from, rise how long it rises, and stay how long it then
	// stays at to.
	quiet, rise, stay time.Duration
	seed              uint64
}

// level returns the demand at a time.
func (r ramp) level(at time.Duration) float64 {
	part := float64(at-r.quiet) / float64(r.rise)
	return r.from + (r.to-r.from)*min(max(part, 0), 1)
}

// requests returns random arrivals at the rate that produces the level. Service times have a mean
// of 4 s and most are shorter.
func (r ramp) requests() []simulate.Request {
	const mean, spread = 4.0, 0.8
	random := rand.New(rand.NewPCG(r.seed, 1))
	var out []simulate.Request
	end, most := r.quiet+r.rise+r.stay, max(r.from, r.to)/mean
	for at := time.Duration(0); ; {
		at += time.Duration(random.ExpFloat64() / most * float64(time.Second))
		if at >= end {
			return out
		}
		service := mean * math.Exp(spread*random.NormFloat64()-spread*spread/2)
		if random.Float64()*most <= r.level(at)/mean {
			out = append(out, simulate.Request{At: at, Service: time.Duration(service * float64(time.Second))})
		}
	}
}

// rampTable prints how many requests wait over 10 s on a production ramp, the mean of three seeds,
// by the number of initial replicas.
func rampTable(w io.Writer) {
	const coldStart = 90 * time.Second
	starts := []int{2, 3, 4, 5, 6}
	r := ramp{from: 1, to: 44, rise: 8 * time.Minute}
	fmt.Fprintf(w,
		"ramp from %g to %g requests at once in %s, cold start %s: "+
			"wait > 10 s (replica-hours) by replicas at the start\n", r.from, r.to, r.rise, coldStart)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "policy\t%s\t\n", strings.Trim(strings.ReplaceAll(fmt.Sprint(starts), " ", "\t"), "[]"))
	for _, c := range contenders(coldStart) {
		if c.deployments {
			continue
		}
		fmt.Fprintf(out, "%s\t", c.name)
		for _, start := range starts {
			late, hours := c.climb(r, start, coldStart)
			fmt.Fprintf(out, "%.1f%% (%.2f)\t", 100*late, hours)
		}
		fmt.Fprintln(out)
	}
	out.Flush()
	fmt.Fprintln(w)
}

// climb replays a ramp from the given number of replicas. It returns the part of requests that wait
// over 10 s, and the replica-hours.
func (c contender) climb(r ramp, start int, coldStart time.Duration) (late, hours float64) {
	const seeds = 3
	classes := []simulate.Class{{Name: "gpu", Slots: slots, Speed: 1, Cost: 1, ColdStart: coldStart, Initial: start}}
	for seed := range seeds {
		r.seed = uint64(seed)
		s := simulate.Summarize(simulate.Run(simulate.Config{Classes: classes}, r.requests(), c.scaler()), classes)
		late += s.Over10 / seeds
		hours += s.TotalHours() / seeds
	}
	return late, hours
}
