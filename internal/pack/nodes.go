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
	// More are the task's device requests of other sizes, the largest first.
	More []Ask
}

// Slices is how many instances of device groups it asks for in all.
func (w Work) Slices() int { return w.Count * w.each() }

// each is how many instances one task asks for.
func (w Work) each() int {
	sum := w.Requests * w.Ask.Instances
	for _, a := range w.More {
		sum += a.Requests * a.Instances
	}
	return sum
}

// on returns the node with one task on it; false where the node has no room for it.
func (w Work) on(n Node) (Node, bool) {
	if !w.Fits(n) {
		return n, false
	}
	after := n.After(w.Ask, n.FirstFit(w.Ask))
	for _, a := range w.More {
		if !a.Fits(after) {
			return n, false
		}
		after = after.After(a, after.FirstFit(a))
	}
	return after, true
}

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
		return cmp.Or(cmp.Compare(y.each(), x.each()), cmp.Compare(y.CPU, x.CPU), cmp.Compare(y.MemoryMiB, x.MemoryMiB))
	})
	for _, w := range work {
		left := w.Count
		for i := range b.used {
			left -= put(&b.used[i], w, left)
		}
		for left > 0 && b.open(w) {
			left -= put(&b.used[len(b.used)-1], w, left)
		}
		b.unfit += left
	}
}

// open takes one more node into use, an empty one where one has room for the task.
func (b *bins) open(w Work) bool {
	fits := func(n Node) bool {
		_, ok := w.on(n)
		return ok
	}
	if i := slices.IndexFunc(b.empty, fits); i >= 0 {
		b.used = append(b.used, b.empty[i])
		b.empty = slices.Delete(b.empty, i, i+1)
		return true
	}
	if len(b.used) >= MostNodes || !fits(b.fresh) {
		return false
	}
	b.used = append(b.used, b.fresh)
	return true
}

// put places up to most tasks on a node and returns how many.
func put(n *Node, w Work, most int) int {
	for placed := range most {
		after, ok := w.on(*n)
		if !ok {
			return placed
		}
		*n = after
	}
	return max(most, 0)
}
