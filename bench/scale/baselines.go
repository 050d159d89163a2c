package main

import (
	"math"
	"time"

	"aliquot.example/simulate"
)

// kpa is the algorithm of Knative's pod autoscaler with its defaults, from knative/serving
// pkg/autoscaler/scaling/autoscaler.go: 2 s tick, stable window 60 s, panic window 10% of it, panic
// threshold 200%, target utilization 70%, per tick at most 1000-fold growth and at most halving.
type kpa struct {
	target    float64 // requests in flight per replica
	max       int
	downDelay time.Duration
	panicEnd  time.Duration
	panicking bool
	panicMax  int
	history   []timed
}

type timed struct {
	at    time.Duration
	count int
}

func (k *kpa) Interval() time.Duration { return 2 * time.Second }

func (k *kpa) Decide(o simulate.Observation) []int {
	const stableWindow, panicWindow = 60, 6
	ready := float64(max(1, o.Ready[0]))
	up, down := math.Ceil(1000*ready), math.Floor(ready/2)
	rawStable := math.Ceil(mean(o.Demand, stableWindow) / k.target)
	rawPanic := math.Ceil(mean(o.Demand, panicWindow) / k.target)
	stable := int(min(max(rawStable, down), up))
	burst := int(min(max(rawPanic, down), up))
	if over := rawPanic/ready >= 2; over {
		if !k.panicking {
			k.panicMax = 0
		}
		k.panicking, k.panicEnd = true, o.Now+stableWindow*time.Second
	} else if k.panicking && o.Now > k.panicEnd {
		k.panicking = false
	}
	want := stable
	if k.panicking {
		k.panicMax = max(k.panicMax, stable, burst)
		want = k.panicMax
	}
	return []int{k.delayed(o.Now, min(max(want, 1), k.max))}
}

// delayed implements the scale-down delay: it returns the largest decision within downDelay.
func (k *kpa) delayed(now time.Duration, want int) int {
	k.history = append(k.history, timed{now, want})
	for k.history[0].at < now-k.downDelay {
		k.history = k.history[1:]
	}
	for _, h := range k.history {
		want = max(want, h.count)
	}
	return want
}

// nomadTarget is the target-value strategy of nomad-autoscaler with its defaults: every 10 s it
// multiplies the count by metric/target, unless that ratio is within 1% of 1. A change starts a
// cooldown of 5 minutes. The metric is the demand per running replica, as the strategy's
// documentation requires.
type nomadTarget struct {
	target   float64
	max      int
	cooldown time.Duration
	until    time.Duration
}

func (n *nomadTarget) Interval() time.Duration { return 10 * time.Second }

func (n *nomadTarget) Decide(o simulate.Observation) []int {
	running := o.Ready[0]
	if len(o.Demand) == 0 || o.Now < n.until {
		return o.Desired
	}
	factor := o.Demand[len(o.Demand)-1] / n.target / float64(max(1, running))
	if math.Abs(factor-1) <= 0.01 {
		return o.Desired
	}
	want := min(max(int(math.Ceil(float64(running)*factor)), 1), n.max)
	if want != o.Desired[0] {
		n.until = o.Now + n.cooldown
	}
	return []int{want}
}

// rayServe is Ray Serve's default autoscaling policy (ray python/ray/serve/autoscaling_policy.py):
// target 2 ongoing requests per replica, averaged over 30 s. It scales up after 30 s, and down
// after 600 s, of uninterrupted decisions in that direction.
type rayServe struct {
	max   int
	ups   int
	downs int
}

func (r *rayServe) Interval() time.Duration { return 100 * time.Millisecond }

func (r *rayServe) Decide(o simulate.Observation) []int {
	const target, lookBack, upDelay, downDelay = 2, 30, 30.0, 600.0
	current := o.Desired[0]
	want := min(max(int(math.Ceil(mean(o.Demand, lookBack)/target)), 1), r.max)
	tick := r.Interval().Seconds()
	switch {
	case want > current:
		r.ups, r.downs = r.ups+1, 0
		if float64(r.ups)*tick > upDelay {
			r.ups = 0
			return []int{want}
		}
	case want < current:
		r.downs, r.ups = r.downs+1, 0
		if float64(r.downs)*tick > downDelay {
			r.downs = 0
			return []int{want}
		}
	default:
		r.ups, r.downs = 0, 0
	}
	return []int{current}
}

// mean returns the mean of the last n values, or of all if there are fewer.
func mean(values []float64, n int) float64 {
	values = values[max(0, len(values)-n):]
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
