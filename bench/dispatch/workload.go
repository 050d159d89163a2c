package main

import (
	"math/rand/v2"
	"time"
)

// call is one request of the workload: when it is due, and its work as a multiple of the mean.
type call struct {
	at   time.Duration
	work float64
}

// poisson draws n calls with exponential work, at a rate in calls per second. The same seed gives
// the same calls, so every contestant serves the same work at the same times.
func poisson(seed uint64, rate float64, n int) []call {
	r := rand.New(rand.NewPCG(seed, 0x616c6971756f74))
	calls := make([]call, n)
	var at float64
	for i := range calls {
		at += r.ExpFloat64() / rate
		calls[i] = call{time.Duration(at * float64(time.Second)), r.ExpFloat64()}
	}
	return calls
}

// fleet is the mean service time of each replica.
type fleet []time.Duration

// uneven returns four replicas of 25 ms and four of 100 ms, with one slot each.
func uneven() fleet {
	const fast, slow = 25 * time.Millisecond, 100 * time.Millisecond
	return fleet{fast, fast, fast, fast, slow, slow, slow, slow}
}

// capacity returns the requests per second at full load.
func (f fleet) capacity() float64 {
	var sum float64
	for _, mean := range f {
		sum += 1 / mean.Seconds()
	}
	return sum
}
