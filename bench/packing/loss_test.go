package main

import (
	"math"
	"testing"

	"aliquot.example/internal/pack"
)

// What is not allocated has one cause: whole slices, a GPU with too few of them, or a node
// without CPU.
func TestALossHasOneCause(t *testing.T) {
	machines := []machine{
		{cpu: 100, memory: 100, gpus: 1, model: "T4"},
		{cpu: 10, memory: 100, gpus: 2, model: "T4"},
		{cpu: 100, memory: 100, gpus: 1, model: "T4"},
	}
	demand := pack.Demand{
		{Ask: pack.Ask{CPU: 10, MemoryMiB: 1, Instances: 10, Requests: 1}, Weight: 1},
		{Ask: pack.Ask{CPU: 10}, Weight: 5}, // it uses no GPU, so it strands none
	}
	nodes := nodesOf(machines, 20)
	nodes[0].Groups[0].Free = 4 // 16 slices are held by 0.79 GPUs
	nodes[1].CPU, nodes[1].Groups[0].Free = 0, 0
	got := lossOf(nodes, demand, capacity(machines), 0.79+1)
	for name, c := range map[string][2]float64{
		"rounded up": {got.rounded, 0.01}, "too small": {got.small, 0.2}, "no CPU": {got.host, 1},
		"usable": {got.usable, 1},
	} {
		if math.Abs(c[0]-c[1]) > 1e-9 {
			t.Errorf("%s: %v GPUs, want %v", name, c[0], c[1])
		}
	}
}

// The losses and what is allocated are all of the capacity, under any policy.
func TestLossesSumToTheRest(t *testing.T) {
	machines := []machine{{cpu: 8000, memory: 8000, gpus: 4, model: "T4"}, {cpu: 4000, memory: 8000, gpus: 2, model: "T4"}}
	tasks := []task{{cpu: 900, memory: 500, gpus: 1, part: 0.47}, {cpu: 1500, memory: 900, gpus: 1, part: 0.81}, {cpu: 800, memory: 900, gpus: 2, part: 1}, {cpu: 100, memory: 100}}
	demand := demandOf(tasks, 20)
	for _, name := range []string{"random", "bestfit", "fgd", "fragmentation"} {
		c := simulated(name)
		if c.make == nil {
			c = nomad(name, 0)
		}
		p, err := c.make(machines, 20, 42, demand)
		if err != nil {
			t.Fatal(err)
		}
		r, err := replay(p, arrivals(tasks, capacity(machines), 1.3, 42), capacity(machines), demand)
		if err != nil {
			t.Fatal(err)
		}
		rest := (r.lost.rounded + r.lost.small + r.lost.host + r.lost.usable) / capacity(machines) * 100
		if at := r.percent[2]; math.Abs(at+rest-100) > 1e-6 || r.lost.rounded < -1e-9 {
			t.Errorf("%s: %.3f%% are allocated and %.3f%% lost: %+v", name, at, rest, r.lost)
		}
	}
}
