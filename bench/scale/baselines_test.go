package main

import (
	"slices"
	"testing"
	"time"

	"aliquot.example/simulate"
)

func observed(now int, demand []float64, ready, desired int) simulate.Observation {
	return simulate.Observation{Now: time.Duration(now) * time.Second, Demand: demand, Ready: []int{ready}, Desired: []int{desired}}
}

func flat(v float64, n int) []float64 { return slices.Repeat([]float64{v}, n) }

func TestKPAFollowsItsFormulas(t *testing.T) {
	k := &kpa{target: 1.4, max: 100}
	if got := k.Decide(observed(60, flat(14, 60), 10, 10))[0]; got != 10 {
		t.Errorf("stable: %d, want 14/1.4", got)
	}
	if got := k.Decide(observed(62, flat(0, 60), 10, 10))[0]; got != 5 {
		t.Errorf("down: %d, want half of the ready ones", got)
	}
	burst := append(flat(7, 54), flat(70, 6)...)
	if got := k.Decide(observed(64, burst, 10, 5))[0]; got != 50 {
		t.Errorf("panic: %d, want 70/1.4", got)
	}
	if got := k.Decide(observed(66, flat(7, 60), 10, 50))[0]; got != 50 {
		t.Errorf("within the panic: %d, want no shrinking", got)
	}
	if got := k.Decide(observed(127, flat(7, 60), 10, 50))[0]; got != 5 {
		t.Errorf("60 s later: %d, want 7/1.4", got)
	}
	delayed := &kpa{target: 1.4, max: 100, downDelay: 300 * time.Second}
	delayed.Decide(observed(60, flat(14, 60), 10, 10))
	if got := delayed.Decide(observed(359, flat(0, 60), 10, 10))[0]; got != 10 {
		t.Errorf("within the delay: %d, want 10", got)
	}
	if got := delayed.Decide(observed(361, flat(0, 60), 10, 10))[0]; got != 5 {
		t.Errorf("after the delay: %d, want 5", got)
	}
}

func TestNomadTargetValueMultipliesAndCoolsDown(t *testing.T) {
	n := &nomadTarget{target: 1.4, max: 100, cooldown: 5 * time.Minute}
	if got := n.Decide(observed(10, flat(14, 10), 5, 5))[0]; got != 10 {
		t.Errorf("%d, want 5 x (14/5)/1.4", got)
	}
	if got := n.Decide(observed(300, flat(140, 10), 10, 10))[0]; got != 10 {
		t.Errorf("in the cooldown: %d, want 10", got)
	}
	if got := n.Decide(observed(310, flat(14.1, 10), 10, 10))[0]; got != 10 {
		t.Errorf("within 1%% of the target: %d, want 10", got)
	}
}

func TestRayServeWaitsForItsDelays(t *testing.T) {
	r := &rayServe{max: 100}
	steps := func(n int, demand float64, current int) int {
		for range n {
			current = r.Decide(observed(0, flat(demand, 30), current, current))[0]
		}
		return current
	}
	if got := steps(300, 20, 1); got != 1 {
		t.Errorf("after 30 s: %d, want 1", got)
	}
	if got := steps(2, 20, 1); got != 10 {
		t.Errorf("after more: %d, want 20/2", got)
	}
	if got := steps(5999, 2, 10); got != 10 {
		t.Errorf("within 600 s: %d, want 10", got)
	}
	if got := steps(3, 2, 10); got != 1 {
		t.Errorf("after 600 s: %d, want 1", got)
	}
}
