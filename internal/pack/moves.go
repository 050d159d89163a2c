package pack

// Stranded returns the free GPU capacity of a node that no task of the demand can use,
// in GPUs.
func (d Demand) Stranded(n Node) float64 {
	sum := 0.0
	for _, g := range n.Groups {
		if g.Free > 0 && !d.uses(n, g) {
			sum += float64(g.Free) * g.Unit
		}
	}
	return sum
}

// uses reports whether any task of the demand could take instances of a group.
func (d Demand) uses(n Node, g Group) bool {
	for _, t := range d {
		if t.Weight > 0 && t.Instances > 0 && t.fits(g) && t.Fits(n) {
			return true
		}
	}
	return false
}

// Placed is one allocation that may be moved.
type Placed struct {
	Node int // in the list of nodes
	Ask
	// Group identifies allocations that Barred treats alike.
	Group string
	// Held counts, for each group of the node, the instances that it holds.
	Held []int
}

// Barred holds, for each group, the nodes that take no allocation of it.
type Barred map[string]map[int]bool

// Add bars a node for a group.
func (b Barred) Add(group string, node int) {
	if b[group] == nil {
		b[group] = map[int]bool{}
	}
	b[group][node] = true
}

// Move takes one allocation from its node to another.
type Move struct {
	Placed   int // in the list of allocations
	From, To int
	// Gain is by how much the waste of all nodes falls, in GPUs.
	Gain float64
}

// minGain is the gain, in GPUs, below which a move is not worth a restart.
const minGain = 0.1

// Moves returns up to most moves. Each is the one that lowers the waste of all nodes most
// after the moves before it. No allocation moves twice. Nodes in closed take no allocation,
// and nodes in barred take none of that group.
func (d Demand) Moves(nodes []Node, placed []Placed, closed []bool, barred Barred, most int) []Move {
	nodes = append([]Node(nil), nodes...)
	moved := make([]bool, len(placed))
	var out []Move
	for len(out) < most {
		m, ok := d.move(nodes, placed, closed, barred, moved)
		if !ok {
			break
		}
		p := placed[m.Placed]
		nodes[m.From] = nodes[m.From].without(p)
		nodes[m.To] = nodes[m.To].After(p.Ask, nodes[m.To].FirstFit(p.Ask))
		moved[m.Placed] = true
		out = append(out, m)
	}
	return out
}

// target is a node that could take an ask, and by how much its waste would grow.
type target struct {
	node   int
	growth float64
}

func (d Demand) move(nodes []Node, placed []Placed, closed []bool, barred Barred, moved []bool) (Move, bool) {
	type kind struct {
		Ask
		group string // "" if no node is barred for it
	}
	targets := map[kind][2]target{} // the best two, because an allocation may be on the best
	best, found := Move{}, false
	for i, p := range placed {
		if moved[i] {
			continue
		}
		k := kind{Ask: p.Ask}
		if barred[p.Group] != nil {
			k.group = p.Group
		}
		two, ok := targets[k]
		if !ok {
			two = d.best(nodes, func(node int) bool { return closed[node] || barred[p.Group][node] }, p.Ask)
			targets[k] = two
		}
		to := two[0]
		if to.node == p.Node {
			to = two[1]
		}
		if to.node < 0 {
			continue
		}
		gain := d.Waste(nodes[p.Node]) - d.Waste(nodes[p.Node].without(p)) - to.growth
		if gain >= minGain && (!found || gain > best.Gain) {
			best, found = Move{i, p.Node, to.node, gain}, true
		}
	}
	return best, found
}

func (d Demand) best(nodes []Node, closed func(node int) bool, a Ask) [2]target {
	two := [2]target{{node: -1}, {node: -1}}
	for i, n := range nodes {
		if closed(i) {
			continue
		}
		growth, ok := d.Growth(n, a)
		switch {
		case !ok:
		case two[0].node < 0 || growth < two[0].growth:
			two[0], two[1] = target{i, growth}, two[0]
		case two[1].node < 0 || growth < two[1].growth:
			two[1] = target{i, growth}
		}
	}
	return two
}

// without returns the node after an allocation of it has ended.
func (n Node) without(p Placed) Node {
	out := Node{CPU: n.CPU + p.CPU, MemoryMiB: n.MemoryMiB + p.MemoryMiB, Groups: append([]Group(nil), n.Groups...)}
	for i, held := range p.Held {
		out.Groups[i].Free += held
	}
	return out
}
