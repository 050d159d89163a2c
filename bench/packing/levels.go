package main

import (
	"math"
	"math/rand/v2"
	"strconv"

	"aliquot.example/internal/pack"
)

// looked is the number of nodes with room that Nomad's scheduler scores for a job with a
// spread.
const looked = 100

// leveled is a model of Nomad's scheduler for jobs of the policy fragmentation: it adds the
// same scores for the same published levels, of 100 random nodes with room. It needs a
// hundredth of the scheduler's time, so that all nodes and many orders can be tried. Results
// of the scheduler itself decide.
type leveled struct {
	n         int
	demand    pack.Demand
	classes   []pack.Class
	empty     []pack.Node // what the nodes have in all
	nodes     []pack.Node
	published []map[string]string
	order     []int
	random    *rand.Rand
}

func newLeveled(machines []machine, n int, seed uint64, demand pack.Demand) *leveled {
	l := &leveled{n: n, demand: demand, classes: demand.Classes(), empty: nodesOf(machines, n),
		nodes: nodesOf(machines, n), random: rand.New(rand.NewPCG(seed, 77))}
	for i, node := range l.nodes {
		l.published = append(l.published, demand.Attributes(l.classes, node))
		l.order = append(l.order, i)
	}
	return l
}

func (l *leveled) free() []pack.Node { return l.nodes }

func (l *leveled) place(t task) (bool, error) {
	a := t.ask(l.n)
	class, classed := pack.ClassOf(l.classes, a)
	best, score, seen := -1, math.Inf(-1), 0
	for j := range l.order {
		next := j + l.random.IntN(len(l.order)-j)
		l.order[j], l.order[next] = l.order[next], l.order[j]
		i := l.order[j]
		if !a.Fits(l.nodes[i]) {
			continue
		}
		s := l.fit(i, a)
		if classed {
			s = l.score(i, class, a)
		}
		if s > score {
			best, score = i, s
		}
		if seen++; seen == looked {
			break
		}
	}
	if best < 0 {
		return false, nil
	}
	l.nodes[best] = l.nodes[best].After(a, l.nodes[best].FirstFit(a))
	l.published[best] = l.demand.Attributes(l.classes, l.nodes[best])
	return true, nil
}

// fit is the score of bin packing, from 0 to 1: the fuller CPU and memory of the node are
// with the task, the higher it is.
func (l *leveled) fit(i int, a pack.Ask) float64 {
	part := func(left, total int) float64 { return math.Pow(10, float64(left)/float64(total)) }
	n, all := l.nodes[i], l.empty[i]
	return max(0, min(18, 20-part(n.CPU-a.CPU, all.CPU)-part(n.MemoryMiB-a.MemoryMiB, all.MemoryMiB))) / 18
}

// score is the mean of the scores that a job of the class gives to a node.
func (l *leveled) score(i int, class pack.Class, a pack.Ask) float64 {
	level, _ := strconv.Atoi(l.published[i][class.Attribute()])
	room, _ := strconv.Atoi(l.published[i][pack.RoomAttribute])
	steering := pack.Steer(pack.Fragmentation, class)
	sum := l.fit(i, a) + 1 - 100/float64(steering.Targets[level].Percent)
	fuller := len(steering.Affinities)
	sum += float64(fuller-min(room, fuller)) / float64(fuller)
	served := l.nodes[i].FirstFit(a)
	if len(served) == 0 {
		return sum / 3
	}
	indices := len(steering.Devices)
	for _, g := range served {
		sum += float64(indices-min(g, indices)) / float64(indices*len(served))
	}
	return sum / 4
}
