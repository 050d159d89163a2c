package dispatch

// tree holds waiting tickets, earliest deadline first, and finds the ticket at any rank in O(log
// n). It is a treap: a search tree that has the shape of random insertion, because each ticket's
// depth is a hash of its sequence number.
type tree struct{ root *Ticket }

// node is a ticket's node in its tree.
type node struct {
	left, right *Ticket
	size        int
}

func earlier(a, b *Ticket) bool {
	if !a.due.Equal(b.due) {
		return a.due.Before(b.due)
	}
	return a.seq < b.seq
}

// depth returns the priority of a ticket in the heap order of the treap: the finalizer of Steele,
// Lea and Flood's SplitMix64.
func depth(t *Ticket) uint64 {
	z := t.seq * 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

func size(t *Ticket) int {
	if t == nil {
		return 0
	}
	return t.node.size
}

func (t *Ticket) count() { t.node.size = 1 + size(t.node.left) + size(t.node.right) }

func (tr *tree) len() int { return size(tr.root) }

func (tr *tree) insert(t *Ticket) {
	t.node = node{size: 1}
	at := &tr.root
	for *at != nil && depth(*at) >= depth(t) {
		(*at).node.size++
		if earlier(t, *at) {
			at = &(*at).node.left
		} else {
			at = &(*at).node.right
		}
	}
	t.node.left, t.node.right = split(*at, t)
	t.count()
	*at = t
}

// split divides a tree into the tickets served before t and those after it.
func split(root, t *Ticket) (before, after *Ticket) {
	if root == nil {
		return nil, nil
	}
	if earlier(root, t) {
		before = root
		before.node.right, after = split(root.node.right, t)
	} else {
		after = root
		before, after.node.left = split(root.node.left, t)
	}
	root.count()
	return before, after
}

func join(before, after *Ticket) *Ticket {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case depth(before) >= depth(after):
		before.node.right = join(before.node.right, after)
		before.count()
		return before
	}
	after.node.left = join(before, after.node.left)
	after.count()
	return after
}

// remove removes a ticket that is in the tree.
func (tr *tree) remove(t *Ticket) {
	at := &tr.root
	for *at != t {
		(*at).node.size--
		if earlier(t, *at) {
			at = &(*at).node.left
		} else {
			at = &(*at).node.right
		}
	}
	*at = join(t.node.left, t.node.right)
	t.node = node{}
}

// first returns the ticket to serve first. The tree must not be empty.
func (tr *tree) first() *Ticket {
	t := tr.root
	for t.node.left != nil {
		t = t.node.left
	}
	return t
}

// at returns the ticket at rank i, counted from 0. i must be less than len.
func (tr *tree) at(i int) *Ticket {
	t := tr.root
	for {
		left := size(t.node.left)
		switch {
		case i < left:
			t = t.node.left
		case i == left:
			return t
		default:
			i -= left + 1
			t = t.node.right
		}
	}
}

// rank returns the number of tickets due no later than t.
func (tr *tree) rank(t *Ticket) int {
	n := 0
	for at := tr.root; at != nil; {
		if earlier(t, at) {
			at = at.node.left
		} else {
			n += 1 + size(at.node.left)
			at = at.node.right
		}
	}
	return n
}
