package main

import (
	"slices"
	"time"
)

// summary is what the tables print about many latencies.
type summary struct {
	n              int
	mean, p50, p99 time.Duration
}

func summarise(all []time.Duration) summary {
	if len(all) == 0 {
		return summary{}
	}
	all = slices.Clone(all)
	slices.Sort(all)
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	at := func(p float64) time.Duration { return all[min(len(all)-1, int(p*float64(len(all))))] }
	return summary{n: len(all), mean: sum / time.Duration(len(all)), p50: at(0.50), p99: at(0.99)}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
