package main

import (
	"math"
	"math/rand/v2"

	"aliquot.example/internal/pack"
)

// placer places one task after another, none of which ends.
type placer interface {
	// place reports whether the task found room.
	place(t task) (bool, error)
	// free returns the nodes with their free capacity.
	free() []pack.Node
}

// ask is a task in slices of n.
func (t task) ask(n int) pack.Ask {
	if t.whole {
		a := pack.Ask{CPU: t.cpu, MemoryMiB: t.memory, Instances: t.slices(n), Requests: t.gpus, Of: n}
		if t.gpus > 1 {
			a.Instances, a.Requests, a.Of = t.gpus, 1, 1
		}
		if t.gpus == 0 {
			a.Of = 0
		}
		return a
	}
	return pack.Ask{CPU: t.cpu, MemoryMiB: t.memory, Instances: t.slices(n), Requests: t.gpus}
}

// demandOf returns a workload as the typical demand.
func demandOf(tasks []task, n int) pack.Demand {
	count := map[pack.Ask]float64{}
	var order []pack.Ask
	for _, t := range tasks {
		a := t.ask(n)
		if count[a] == 0 {
			order = append(order, a)
		}
		count[a]++
	}
	out := make(pack.Demand, 0, len(order))
	for _, a := range order {
		out = append(out, pack.Typical{Ask: a, Weight: count[a]})
	}
	return out
}

// nodesOf returns the machines as empty nodes. Each GPU is a group of n slices.
func nodesOf(cluster []machine, n int) []pack.Node {
	out := make([]pack.Node, len(cluster))
	for i, m := range cluster {
		out[i] = pack.Node{CPU: m.cpu, MemoryMiB: m.memory}
		if m.whole {
			out[i].Groups = []pack.Group{{Free: m.gpus, Total: m.gpus, Unit: 1}}
			continue
		}
		for range m.gpus {
			out[i].Groups = append(out[i].Groups, pack.Group{Free: n, Total: n, Unit: 1 / float64(n)})
		}
	}
	return out
}

// choice is one way to place a task on a node. The one with the least scores, compared in
// their order, is taken; equal ones are drawn at random.
type choice struct {
	served []int
	score  [3]float64
}

// knowing places with full knowledge of the cluster. rank returns the best choice on a
// node that has room.
type knowing struct {
	n       int
	nodes   []pack.Node
	version []int
	rank    func(pack.Node, pack.Ask) choice
	cache   map[pack.Ask][]cached
	random  *rand.Rand
}

type cached struct {
	version int
	fits    bool
	choice
}

func newKnowing(cluster []machine, n int, seed uint64, rank func(pack.Node, pack.Ask) choice) *knowing {
	return &knowing{
		n: n, nodes: nodesOf(cluster, n), version: make([]int, len(cluster)), rank: rank,
		cache: map[pack.Ask][]cached{}, random: rand.New(rand.NewPCG(seed, 61)),
	}
}

func (k *knowing) free() []pack.Node { return k.nodes }

func (k *knowing) place(t task) (bool, error) {
	a := t.ask(k.n)
	memo := k.cache[a]
	if memo == nil {
		memo = make([]cached, len(k.nodes))
		k.cache[a] = memo
	}
	best, ties := -1, 0
	for i, n := range k.nodes {
		c := &memo[i]
		if c.version != k.version[i]+1 {
			*c = cached{version: k.version[i] + 1, fits: a.Fits(n)}
			if c.fits {
				c.choice = k.rank(n, a)
			}
		}
		if !c.fits {
			continue
		}
		switch {
		case best < 0 || less(c.score, memo[best].score):
			best, ties = i, 1
		case c.score == memo[best].score:
			if ties++; k.random.IntN(ties) == 0 {
				best = i
			}
		}
	}
	if best < 0 {
		return false, nil
	}
	k.nodes[best] = k.nodes[best].After(a, memo[best].served)
	k.version[best]++
	return true, nil
}

func less(a, b [3]float64) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// each calls look with the ways to serve a task on a node. For one request it is one GPU
// for each different number of free slices, for several the first GPUs with room.
func each(n pack.Node, a pack.Ask, look func(served []int)) {
	if a.Requests != 1 {
		look(n.FirstFit(a))
		return
	}
	seen := 0
	for i, g := range n.Groups {
		if bit := 1 << g.Free; g.Free >= a.Instances && seen&bit == 0 {
			seen |= bit
			look([]int{i})
		}
	}
}

// best returns the choice with the least score.
func best(n pack.Node, a pack.Ask, score func(after pack.Node, served []int) [3]float64) choice {
	var out choice
	first := true
	each(n, a, func(served []int) {
		s := score(n.After(a, served), served)
		if first || less(s, out.score) {
			out, first = choice{served, s}, false
		}
	})
	return out
}

// atRandom takes any node and any GPU with room.
func atRandom(random *rand.Rand) func(pack.Node, pack.Ask) choice {
	return func(n pack.Node, a pack.Ask) choice {
		return best(n, a, func(pack.Node, []int) [3]float64 { return [3]float64{random.Float64()} })
	}
}

// bestFit leaves the least free. It first compares the sum of CPU, memory and GPUs, each as
// a part of the largest node's, as the published comparison does, and then the GPU itself.
func bestFit(cluster []machine) func(pack.Node, pack.Ask) choice {
	var cpu, memory, gpus float64
	for _, m := range cluster {
		cpu, memory, gpus = max(cpu, float64(m.cpu)), max(memory, float64(m.memory)), max(gpus, float64(m.gpus))
	}
	return func(n pack.Node, a pack.Ask) choice {
		return best(n, a, func(after pack.Node, served []int) [3]float64 {
			rest := float64(after.CPU)/cpu + float64(after.MemoryMiB)/memory + after.Free()/gpus
			return [3]float64{rest, left(after, served)}
		})
	}
}

// left returns the free slices on the GPUs that served.
func left(after pack.Node, served []int) float64 {
	sum := 0
	for _, i := range served {
		sum += after.Groups[i].Free
	}
	return float64(sum)
}

// fgd takes the least growth of waste, and among equals the least free capacity.
func fgd(d pack.Demand) func(pack.Node, pack.Ask) choice {
	return func(n pack.Node, a pack.Ask) choice {
		before := d.Waste(n)
		return best(n, a, func(after pack.Node, served []int) [3]float64 {
			growth := math.Round((d.Waste(after) - before) * 1e6)
			return [3]float64{growth, left(after, served), after.Free()}
		})
	}
}
