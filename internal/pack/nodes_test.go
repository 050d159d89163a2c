package pack

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// node20 returns a node of GPUs in 20 slices with these numbers of free slices.
func node20(free ...int) Node {
	n := Node{CPU: 100_000, MemoryMiB: 1 << 20}
	for _, f := range free {
		n.Groups = append(n.Groups, Group{Free: f, Total: 20, Unit: 1.0 / 20})
	}
	return n
}

func slicesOf20(count, each int) Work {
	return Work{Ask: Ask{Instances: each, Requests: 1}, Count: count}
}

func TestNodesThatAreNeeded(t *testing.T) {
	fresh := node20(20, 20)
	for name, c := range map[string]struct {
		standing         []Standing
		waiting, standby []Work
		want             Need
	}{
		"nothing":                        {want: Need{}},
		"an empty node goes":             {standing: []Standing{{Node: fresh, Open: true}}, want: Need{}},
		"a node with work stays":         {standing: []Standing{{Node: node20(20, 10), Kept: true, Open: true}}, want: Need{Kept: 1}},
		"a closed node with work stays":  {standing: []Standing{{Node: node20(20, 10), Kept: true}}, want: Need{Kept: 1}},
		"waiting work fills new nodes":   {waiting: []Work{slicesOf20(5, 10)}, want: Need{Waiting: 2}},
		"room that is free but in parts": {waiting: []Work{slicesOf20(2, 15), slicesOf20(1, 10)}, want: Need{Waiting: 2}},
		"empty nodes take it first":      {standing: []Standing{{Node: fresh, Open: true}}, waiting: []Work{slicesOf20(1, 10)}, want: Need{Waiting: 1}},
		"no closed node takes it":        {standing: []Standing{{Node: fresh}}, waiting: []Work{slicesOf20(1, 10)}, want: Need{Waiting: 1}},
		"Nomad has tried nodes with work": {
			standing: []Standing{{Node: node20(20, 10), Kept: true, Open: true}}, waiting: []Work{slicesOf20(1, 10)}, want: Need{Kept: 1, Waiting: 1},
		},
		"standby in what is free": {
			standing: []Standing{{Node: node20(20, 10), Kept: true, Open: true}}, standby: []Work{slicesOf20(3, 10)}, want: Need{Kept: 1},
		},
		"standby beyond what is free": {
			standing: []Standing{{Node: node20(5, 15), Kept: true, Open: true}}, standby: []Work{slicesOf20(2, 10)}, want: Need{Kept: 1, Standby: 1},
		},
		"standby beside waiting work": {waiting: []Work{slicesOf20(1, 10)}, standby: []Work{slicesOf20(3, 10)}, want: Need{Waiting: 1}},
		"no standby on closed nodes": {
			standing: []Standing{{Node: node20(20, 10), Kept: true}}, standby: []Work{slicesOf20(1, 10)}, want: Need{Kept: 1, Standby: 1},
		},
		"requests of two sizes": {
			waiting: []Work{{Ask: Ask{Instances: 15, Requests: 2}, Count: 3, More: []Ask{{Instances: 5, Requests: 2}}}}, want: Need{Waiting: 3},
		},
		"sizes that a node has no room for": {
			waiting: []Work{{Ask: Ask{Instances: 15, Requests: 2}, Count: 3, More: []Ask{{Instances: 6, Requests: 1}}}}, want: Need{Unfit: 3},
		},
		"more than a node has": {waiting: []Work{{Ask: Ask{Instances: 20, Requests: 3}, Count: 2}, slicesOf20(1, 21)}, want: Need{Unfit: 3}},
		"no end":               {waiting: []Work{slicesOf20(1<<40, 20)}, want: Need{Waiting: MaxNodes, Unfit: 1<<40 - 2*MaxNodes}},
	} {
		if got := NeedFor(c.standing, fresh, c.waiting, c.standby); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

var anyWork = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Work {
	return Work{Ask: Ask{CPU: rapid.IntRange(0, 40_000).Draw(t, "cpu"), Instances: rapid.IntRange(1, 22).Draw(t, "instances"), Requests: rapid.IntRange(1, 3).Draw(t, "requests")},
		Count: rapid.IntRange(0, 9).Draw(t, "count")}
}), 0, 4)

var anyStanding = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Standing {
	s := Standing{Node: node20(20, 20), Kept: rapid.Bool().Draw(t, "kept"), Open: rapid.IntRange(0, 3).Draw(t, "open") > 0}
	if s.Kept {
		s.Node = node20(rapid.IntRange(0, 20).Draw(t, "free"), rapid.IntRange(0, 20).Draw(t, "free"))
	}
	return s
}), 0, 5)

// Nodes that join empty because of a need do not change it, however many have joined. The
// need therefore never grows by itself.
func TestNodesThatJoinChangeNoNeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		standing, waiting, standby := anyStanding.Draw(t, "standing"), anyWork.Draw(t, "waiting"), anyWork.Draw(t, "standby")
		before := NeedFor(standing, node20(20, 20), waiting, standby)
		for range rapid.IntRange(0, 30).Draw(t, "joined") {
			standing = append(standing, Standing{Node: node20(20, 20), Open: true})
		}
		if after := NeedFor(standing, node20(20, 20), waiting, standby); after != before {
			t.Fatalf("%+v became %+v", before, after)
		}
	})
}

// The needed nodes have room for every task that fits an empty node. No node with work is
// given up, and no node is requested that no task needs.
func TestTheNeedSuffices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		standing, waiting, standby := anyStanding.Draw(t, "standing"), anyWork.Draw(t, "waiting"), anyWork.Draw(t, "standby")
		fresh := node20(20, 20)
		n := NeedFor(standing, fresh, waiting, standby)
		kept, tasks, unfit, gpus := 0, 0, 0, 0.0
		for _, s := range standing {
			if s.Kept {
				kept++
			}
		}
		for _, w := range slices.Concat(waiting, standby) {
			tasks += w.Count
			if !w.Fits(fresh) {
				unfit += w.Count
			}
		}
		for _, w := range waiting {
			if w.Fits(fresh) {
				gpus += float64(w.Slices()) / 20
			}
		}
		if n.Kept != kept || n.Unfit != unfit || n.Waiting+n.Standby > tasks {
			t.Fatalf("%+v for %d kept nodes and %d tasks, %d of them for no node", n, kept, tasks, unfit)
		}
		if float64(2*n.Waiting) < gpus-rounding {
			t.Fatalf("%+v: %d nodes of two GPUs for work of %v", n, n.Waiting, gpus)
		}
	})
}

// Equal tasks are packed as tightly as possible.
func TestEqualTasksNeedTheFewestNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, each := rapid.IntRange(0, 50).Draw(t, "count"), rapid.IntRange(1, 20).Draw(t, "each")
		perNode := 2 * (20 / each)
		if got, want := NeedFor(nil, node20(20, 20), []Work{slicesOf20(count, each)}, nil).Waiting, (count+perNode-1)/perNode; got != want {
			t.Fatalf("%d nodes for %d tasks of %d slices, want %d", got, count, each, want)
		}
	})
}
