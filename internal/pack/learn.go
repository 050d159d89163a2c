package pack

import (
	"cmp"
	"slices"
)

// kinds is the most kinds of tasks that a demand keeps.
const kinds = 300

// Steps of CPU and memory. Tasks in the same step are of one kind.
const (
	stepMHz = 250
	stepMiB = 1024
)

// Blend moves a demand by a part, from 0 to 1, towards the demand that was seen. It compares
// the shares of the kinds, so the sums of the weights do not matter. The weights of the
// result sum to 1, before the rarest kinds beyond 300 are dropped.
func Blend(old, seen Demand, part float64) Demand {
	if len(seen) == 0 {
		return old
	}
	if len(old) == 0 {
		part = 1
	}
	share := map[Ask]float64{}
	for _, d := range []struct {
		of   Demand
		part float64
	}{{old, 1 - part}, {seen, part}} {
		total := 0.0
		for _, t := range d.of {
			total += max(0, t.Weight)
		}
		for _, t := range d.of {
			if t.Weight > 0 {
				share[t.coarse()] += d.part * t.Weight / total
			}
		}
	}
	out := make(Demand, 0, len(share))
	for ask, weight := range share {
		out = append(out, Typical{ask, weight})
	}
	slices.SortFunc(out, func(a, b Typical) int {
		return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Requests, b.Requests),
			cmp.Compare(a.Instances, b.Instances), cmp.Compare(a.Of, b.Of),
			cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.MemoryMiB, b.MemoryMiB))
	})
	if len(out) > kinds {
		out = out[:kinds]
	}
	return out
}

func (a Ask) coarse() Ask {
	up := func(n, step int) int { return (n + step - 1) / step * step }
	a.CPU, a.MemoryMiB = up(a.CPU, stepMHz), up(a.MemoryMiB, stepMiB)
	return a
}

// Start returns the demand that applies before anything is learned: mostly whole GPUs,
// halves and quarters of GPUs in 20 slices, some smaller parts and a few tasks of several
// whole GPUs.
func Start() Demand {
	kind := func(instances, requests, cpu, memory int, weight float64) Typical {
		return Typical{Ask{CPU: cpu, MemoryMiB: memory, Instances: instances, Requests: requests}, weight}
	}
	whole := func(gpus, cpu, memory int, weight float64) Typical {
		return Typical{Ask{CPU: cpu, MemoryMiB: memory, Instances: gpus, Requests: 1, Of: 1}, weight}
	}
	return Demand{
		kind(0, 0, 1000, 2048, 10),
		kind(1, 1, 1000, 2048, 5),
		kind(2, 1, 1000, 4096, 8),
		kind(5, 1, 2000, 8192, 20),
		kind(10, 1, 2000, 8192, 12), kind(10, 1, 6000, 16384, 12),
		kind(15, 1, 4000, 16384, 5),
		kind(20, 1, 4000, 16384, 12), kind(20, 1, 12000, 49152, 12),
		whole(2, 16000, 98304, 2),
		whole(4, 32000, 196608, 1),
		whole(8, 64000, 393216, 1),
	}
}
