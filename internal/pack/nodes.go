package pack

import (
	"cmp"
	"slices"
)

// Standing is a node that there is.
type Standing struct {
	Node
	// Kept is set where it must stay, such as one that has work.
	Kept bool
	// Open is set where Nomad places on it.
	Open bool
}

// Work is a number of tasks that ask for the same.
type Work struct {
	Ask
	Count int
}

// Slices is how many instances of device groups it asks for in all.
func (w Work) Slices() int { return w.Count * w.Requests * w.Ask.Instances }

// Need is how many nodes of one kind are needed.
type Need struct {
	// Kept nodes must stay, Waiting more are for work that waits, and Standby more for
	// room that is to be free.
	Kept, Waiting, Standby int
	// Unfit is how many tasks an empty node would not take.
	Unfit int
}

// Nodes is how many are needed in all.
func (n Need) Nodes() int { return n.Kept + n.Waiting + n.Standby }

// MostNodes bounds how many nodes a Need asks for beyond those that are kept.
const MostNodes = 10_000

// NeedFor returns how many nodes of one kind are needed so that what waits has room, and
// standby beside it. fresh is what a new node offers. Work that waits counts as refused by
// the nodes that have work: Nomad has tried them. Empty nodes count as far as they are
// used, like new ones, so that the answer does not depend on how many of the nodes that
// it led to have joined by now.
//
// Tasks are packed by first fit, the largest first.
func NeedFor(standing []Standing, fresh Node, waiting, standby []Work) Need {
	var n Need
	b := bins{fresh: fresh}
	var working []Node
	for _, s := range standing {
		switch {
		case s.Kept:
			n.Kept++
			if s.Open {
				working = append(working, s.Node)
			}
		case s.Open:
			b.empty = append(b.empty, s.Node)
		}
	}
	b.fill(waiting)
	n.Waiting = len(b.used)
	b.used = append(b.used, working...)
	b.fill(standby)
	n.Standby = len(b.used) - n.Waiting - len(working)
	n.Unfit = b.unfit
	return n
}

// bins are nodes that are filled.
type bins struct {
	fresh Node
	// used nodes have got tasks, empty ones not.
	used, empty []Node
	unfit       int
}

func (b *bins) fill(work []Work) {
	work = slices.Clone(work)
	slices.SortStableFunc(work, func(x, y Work) int {
		size := func(w Work) int { return w.Requests * w.Ask.Instances }
		return cmp.Or(cmp.Compare(size(y), size(x)), cmp.Compare(y.CPU, x.CPU), cmp.Compare(y.MemoryMiB, x.MemoryMiB))
	})
	for _, w := range work {
		left := w.Count
		for i := range b.used {
			left -= put(&b.used[i], w.Ask, left)
		}
		for left > 0 && b.open(w.Ask) {
			left -= put(&b.used[len(b.used)-1], w.Ask, left)
		}
		b.unfit += left
	}
}

// open takes one more node into use, an empty one where one has room for the task.
func (b *bins) open(a Ask) bool {
	if i := slices.IndexFunc(b.empty, a.Fits); i >= 0 {
		b.used = append(b.used, b.empty[i])
		b.empty = slices.Delete(b.empty, i, i+1)
		return true
	}
	if !a.Fits(b.fresh) || len(b.used) >= MostNodes {
		return false
	}
	b.used = append(b.used, b.fresh)
	return true
}

// put places up to most tasks on a node and returns how many.
func put(n *Node, a Ask, most int) int {
	for placed := range most {
		if !a.Fits(*n) {
			return placed
		}
		*n = n.After(a, n.FirstFit(a))
	}
	return max(most, 0)
}
