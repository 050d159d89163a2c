package pack

import (
	"cmp"
	"slices"
)

// Standing is an existing node.
type Standing struct {
	Node
	// Kept means that the node must stay, for example because it has work.
	Kept bool
	// Open means that Nomad places allocations on it.
	Open bool
}

// Work is a number of equal tasks.
type Work struct {
	Ask
	Count int
	// More are the task's device requests of other sizes, the largest first.
	More []Ask
}

// Slices returns the number of device instances that all tasks ask for.
func (w Work) Slices() int { return w.Count * w.each() }

// each returns the number of device instances that one task asks for.
func (w Work) each() int {
	sum := w.Requests * w.Ask.Instances
	for _, a := range w.More {
		sum += a.Requests * a.Instances
	}
	return sum
}

// on returns the node with one task on it, and false if the node has no room for it.
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

// Need is the number of nodes of one kind that are needed.
type Need struct {
	// Kept nodes must stay. Waiting more nodes are for work that waits, and Standby more for
	// capacity that must be free.
	Kept, Waiting, Standby int
	// Unfit is the number of tasks that do not fit an empty node.
	Unfit int
}

// Nodes returns the number of nodes that are needed in all.
func (n Need) Nodes() int { return n.Kept + n.Waiting + n.Standby }

// MaxNodes is the largest number of nodes that a Need asks for beyond the kept ones.
const MaxNodes = 10_000

// NeedFor returns how many nodes of one kind are needed so that waiting work and standby
// have room. fresh is the capacity of a new node. NeedFor places waiting work on no node
// that has work, because Nomad has already tried those. It counts empty nodes only if it
// uses them, like new ones, so the result stays the same while requested nodes join.
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

// bins are the nodes that NeedFor fills.
type bins struct {
	fresh Node
	// used nodes have tasks, empty nodes have none.
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

// open takes one more node into use. It prefers an empty one that has room for the task.
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
	if len(b.used) >= MaxNodes || !fits(b.fresh) {
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
