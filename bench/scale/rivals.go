package main

import (
	"math"
	"time"

	"aliquot.example/simulate"
)

// variants is the saturation rule of llm-d's workload-variant autoscaler with its defaults
// (docs/saturation-analyzer.md and docs/saturation-scaling-config.md of
// llm-d/llm-d-workload-variant-autoscaler). It decides once a minute from the peak of that minute
// of each ready replica. A replica is saturated from 80% of its cache or 5 waiting requests. If the
// others have on average less than 10% of the cache or 3 requests to spare, it adds one replica of
// the cheapest variant. If they would still have that much with one replica less, it removes one of
// the most expensive variant. Requests that wait in front of the replicas count in equal parts for
// each replica.
type variants struct {
	costs []float64
	max   int
	peaks map[int]peak // by replica, in the current minute
	until time.Duration
}

type peak struct{ cache, waiting float64 }

func (v *variants) Interval() time.Duration { return time.Second }

func (v *variants) Decide(o simulate.Observation) []int {
	if v.peaks == nil {
		v.peaks, v.until = map[int]peak{}, time.Minute
	}
	for _, e := range o.Engines {
		p := v.peaks[e.ID]
		waiting := float64(e.Waiting) + float64(o.Queued)/float64(len(o.Engines))
		v.peaks[e.ID] = peak{max(p.cache, e.Cache), max(p.waiting, waiting)}
	}
	if o.Now < v.until {
		return o.Desired
	}
	want := v.judge(o)
	clear(v.peaks)
	v.until = o.Now + time.Minute
	return want
}

func (v *variants) judge(o simulate.Observation) []int {
	const fullest, longest, spareCache, spareQueue = 0.8, 5.0, 0.1, 3.0
	var n, cache, waiting float64
	for _, e := range o.Engines {
		if p := v.peaks[e.ID]; p.cache < fullest && p.waiting < longest {
			n, cache, waiting = n+1, cache+p.cache, waiting+p.waiting
		}
	}
	spares := func(n float64) bool {
		return n > 0 && fullest-cache/n >= spareCache && longest-waiting/n >= spareQueue
	}
	want := append([]int(nil), o.Desired...)
	starting := 0
	for c := range want {
		starting += o.Desired[c] - o.Ready[c]
	}
	switch {
	case !spares(n):
		// Starting replicas count: do not add another one before they are ready.
		if c := v.pick(func(c int) bool { return o.Desired[c] < v.max }, 1); c >= 0 && starting == 0 {
			want[c]++
		}
	case n >= 2 && spares(n-1):
		total := 0
		for _, d := range o.Desired {
			total += d
		}
		if c := v.pick(func(c int) bool { return o.Desired[c] > 0 }, -1); c >= 0 && total > 1 {
			want[c]--
		}
	}
	return want
}

// pick returns the variant with the lowest sign*cost for which ok is true, -1 for none.
func (v *variants) pick(ok func(int) bool, sign float64) int {
	best := -1
	for c := range v.costs {
		if ok(c) && (best < 0 || sign*v.costs[c] < sign*v.costs[best]) {
			best = c
		}
	}
	return best
}

// apa is AIBrix's pod autoscaler with its defaults
// (docs/source/features/autoscaling/metric-based-autoscaling.rst of vllm-project/aibrix, and the
// target of its sample): the mean cache usage over 180 s against a target of 50%, with a tolerance
// of 10%. A change at most doubles the replicas, or halves them. The count falls only to the
// largest recommendation of the last 300 s. Its controller runs every 10 s.
type apa struct {
	max     int
	cache   []float64
	history []timed
}

func (a *apa) Interval() time.Duration { return 10 * time.Second }

func (a *apa) Decide(o simulate.Observation) []int {
	const target, tolerance, window, delay = 0.5, 0.1, 18, 300 * time.Second
	used := 0.0
	for _, e := range o.Engines {
		used += e.Cache / float64(len(o.Engines))
	}
	a.cache = append(a.cache, used)
	ready := float64(max(1, o.Ready[0]))
	want := o.Desired[0]
	switch ratio := mean(a.cache, window) / target; {
	case ratio > 1+tolerance:
		want = int(math.Ceil(min(ratio, 2) * ready))
	case ratio < 1-tolerance:
		want = int(math.Ceil(max(ratio, 0.5) * ready))
	}
	want = min(max(want, 1), a.max)
	a.history = append(a.history, timed{o.Now, want})
	for a.history[0].at < o.Now-delay {
		a.history = a.history[1:]
	}
	if want < o.Desired[0] {
		for _, h := range a.history {
			want = max(want, h.count)
		}
		want = min(want, o.Desired[0])
	}
	return []int{want}
}
