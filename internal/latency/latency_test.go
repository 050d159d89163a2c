package latency

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is said of many times lies between what is true for limits a little lower and
// higher, also when they were counted in parts.
func TestAboveIsTrueToTheAccuracy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.Int64Range(int64(time.Millisecond), int64(time.Minute)), 1, 50).Draw(t, "times")
		limit := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Minute)).Draw(t, "limit"))
		counts := map[int]int{}
		more, fewer := 0.0, 0.0
		for _, ns := range times {
			d := time.Duration(ns)
			counts[Bin(d)]++
			if float64(d) > float64(limit)*(1-3*Accuracy) {
				more++
			}
			if float64(d) > float64(limit)*(1+3*Accuracy) {
				fewer++
			}
		}
		above, all := Above(counts, limit)
		if all != float64(len(times)) || above < fewer || above > more {
			t.Fatalf("%v of %v above %v, want %v to %v", above, all, limit, fewer, more)
		}
	})
}

func TestTimesOutOfRangeHaveABin(t *testing.T) {
	if Bin(0) > Bin(time.Millisecond) || Bin(-time.Second) != Bin(0) || Bin(1<<62) < Bin(time.Hour) {
		t.Errorf("bins of 0, -1 s and 146 years: %d, %d, %d", Bin(0), Bin(-time.Second), Bin(1<<62))
	}
	if above, all := Above(nil, time.Second); above != 0 || all != 0 {
		t.Errorf("nothing counted: %v of %v", above, all)
	}
}
