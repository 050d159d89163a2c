package scale

import (
	"slices"
	"testing"
	"time"
)

// replicasOf returns a sizing for replicas that serve one mean request a second.
func replicasOf(p Policy, quantile float64) sizing {
	return p.sizing(Objective{TTFT: 3 * time.Second, Quantile: quantile}, &Serving{Concurrency: 8, Rate: 1})
}

// Whatever the quantile and the scale-down delay, the capacity serves a constant rate.
func TestACapacityIsNotBelowTheRate(t *testing.T) {
	for _, quantile := range []float64{0.5, 0.8, 0.85, 0.88, 0.9, 0.95, 0.99, 0.9999} {
		for _, delay := range []time.Duration{0, time.Second, 5 * time.Second, time.Hour} {
			p := Default()
			p.DownDelay = delay
			got := replicasOf(p, quantile).capacity(slices.Repeat([]float64{20}, 900))
			if got < 20 || got > 30 {
				t.Errorf("quantile %g, down_delay %s: a capacity of %.1f for 20 a second", quantile, delay, got)
			}
		}
	}
}

// After a fall to a constant rate, what is needed only falls: the old load leaves the recent arrivals,
// then all known ones.
func TestAfterAFallTheCapacityOnlyFalls(t *testing.T) {
	z := replicasOf(Default(), 0.99)
	arrived := append(slices.Repeat([]float64{20}, 900), slices.Repeat([]float64{1}, 1200)...)
	last := z.capacity(arrived[:900])
	for now := 910; now <= len(arrived); now += 10 {
		got := z.capacity(arrived[now-900 : now])
		if got > 1.01*last {
			t.Fatalf("%d s after the fall the capacity grows from %.2f to %.2f", now-900, last, got)
		}
		last = got
	}
	if last > 2 {
		t.Errorf("a capacity of %.1f long after the fall to 1 a second", last)
	}
}

// Bursts recur, so their capacity is kept in between. A smooth load that fell is followed down.
func TestBurstsAreKeptAndALoadThatFellIsNot(t *testing.T) {
	z := replicasOf(Default(), 0.99)
	var bursts []float64
	for range 3 {
		bursts = append(bursts, slices.Repeat([]float64{40}, 10)...)
		bursts = append(bursts, make([]float64, 290)...)
	}
	// The last burst is no longer among the recent arrivals.
	if kept, then := z.capacity(bursts), z.capacity(bursts[:310]); kept < 0.8*then {
		t.Errorf("between bursts a capacity of %.1f is kept of %.1f", kept, then)
	}
	fell := append(slices.Repeat([]float64{20}, 600), slices.Repeat([]float64{5}, 300)...)
	if kept := z.capacity(fell); kept > 0.65*z.capacity(fell[:600]) {
		t.Errorf("after a fall to a quarter a capacity of %.1f is kept of %.1f", kept, z.capacity(fell[:600]))
	}
}
