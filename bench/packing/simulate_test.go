package main

import (
	"os"
	"testing"
)

const published = "../../../shared/data/packing"

// On the paper's data the simulated policies allocate what the paper reports, except for
// about half a percent that whole slices cost.
func TestSimulatedPoliciesAgreeWithThePaper(t *testing.T) {
	if _, err := os.Stat(published); os.IsNotExist(err) {
		t.Skip("the folder of the published data is missing: " + published)
	}
	machines, err := readCluster(published, 8)
	if err != nil {
		t.Fatal(err)
	}
	for workload, want := range map[string]map[string]float64{
		"default":    {"random": 86.3, "bestfit": 92.9, "fgd": 95.2},
		"gpushare60": {"random": 82.8, "bestfit": 89.1, "fgd": 91.3},
	} {
		tasks, err := readTasks(published, workload)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for name := range want {
			p, err := simulated(name).make(machines, 20, 42, demandOf(tasks, 20))
			if err != nil {
				t.Fatal(err)
			}
			r, err := replay(p, arrivals(tasks, capacity(machines), 1.01, 42), capacity(machines),
				demandOf(tasks, 20))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = r.percent[2]
			if got[name] < want[name]-2.5 || got[name] > want[name]+1.5 {
				t.Errorf("%s, %s: %.1f%%, the paper has %.1f%%", workload, name, got[name], want[name])
			}
		}
		if got["random"] > got["bestfit"] || got["bestfit"] > got["fgd"] {
			t.Errorf("%s: %v is not the paper's order", workload, got)
		}
	}
}

// A task is placed only where it fits.
func TestWhatIsPlacedFits(t *testing.T) {
	machines := []machine{{cpu: 1000, memory: 1000, gpus: 2, model: "T4"}}
	k := newKnowing(machines, 20, 1, bestFit(machines))
	for i, want := range []bool{true, true, true, false} { // of 0.6, 0.6, 0.4, 0.6 of two GPUs
		part := []float64{0.6, 0.6, 0.4, 0.6}[i]
		if ok, _ := k.place(task{cpu: 1, memory: 1, gpus: 1, part: part}); ok != want {
			t.Errorf("task %d is placed: %v", i, ok)
		}
	}
	if free := k.nodes[0].Free(); free < 0.39 || free > 0.41 {
		t.Errorf("%v GPUs are free", free)
	}
}
