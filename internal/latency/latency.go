// Package latency counts times in bins that are as wide as a part of the time itself, so
// that counts of several seconds and gateways add up to those of all of them. The bins are
// those of DDSketch (Masson, Rim and Lee, VLDB 2019) with a logarithmic mapping.
package latency

import (
	"time"

	"github.com/DataDog/sketches-go/ddsketch/mapping"
)

// Accuracy is how far, as a part of it, a time may lie from what its bin says.
const Accuracy = 0.02

var bins = func() *mapping.LogarithmicMapping {
	m, err := mapping.NewLogarithmicMapping(Accuracy)
	if err != nil {
		panic(err) // Accuracy lies between 0 and 1
	}
	return m
}()

// What is shorter or longer counts as these.
const (
	shortest = time.Microsecond
	longest  = 24 * time.Hour
)

// Bin is the bin of a time; it is a word of the gateway's admin API.
func Bin(d time.Duration) int {
	return bins.Index(min(max(d, shortest), longest).Seconds())
}

// Above returns how many of the counted times are above a limit, and how many there are. A
// bin counts by where the limit cuts it.
func Above(counts map[int]int, limit time.Duration) (above, all float64) {
	cut := bins.Index(min(max(limit, shortest), longest).Seconds())
	low, high := bins.LowerBound(cut), bins.LowerBound(cut+1)
	part := min(max((high-limit.Seconds())/(high-low), 0), 1)
	for bin, n := range counts {
		all += float64(n)
		switch {
		case bin > cut:
			above += float64(n)
		case bin == cut:
			above += part * float64(n)
		}
	}
	return above, all
}
