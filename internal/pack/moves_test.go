package pack

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Two half-full GPUs cannot serve a task for a whole GPU. One move frees a whole GPU.
func TestAMoveJoinsTwoHalves(t *testing.T) {
	half := Node{CPU: 4000, MemoryMiB: 4000, Groups: []Group{{Free: 10, Total: 20, Unit: 0.05}}}
	d := Demand{{Ask{CPU: 100, MemoryMiB: 100, Instances: 20, Requests: 1}, 1}}
	if s := d.Stranded(half); math.Abs(s-0.5) > rounding {
		t.Errorf("%v GPUs are stranded, want 0.5", s)
	}
	placed := []Placed{{0, Ask{CPU: 100, Instances: 10, Requests: 1}, "a", []int{10}}, {1, Ask{CPU: 100, Instances: 10, Requests: 1}, "b", []int{10}}}
	moves := d.Moves([]Node{half, half}, placed, make([]bool, 2), nil, 9)
	if len(moves) != 1 || moves[0].From == moves[0].To || math.Abs(moves[0].Gain-1) > rounding {
		t.Errorf("moves are %+v, want one that gains a GPU", moves)
	}
	if moves := d.Moves([]Node{half, half}, placed, []bool{true, true}, nil, 9); moves != nil {
		t.Errorf("with both nodes closed: %+v", moves)
	}
}

// A barred node takes no allocation of that group, and takes other groups as before.
func TestAMoveHeedsWhatIsBarred(t *testing.T) {
	half := Node{CPU: 4000, MemoryMiB: 4000, Groups: []Group{{Free: 10, Total: 20, Unit: 0.05}}}
	d := Demand{{Ask{CPU: 100, MemoryMiB: 100, Instances: 20, Requests: 1}, 1}}
	ask := Ask{CPU: 100, Instances: 10, Requests: 1}
	placed := []Placed{{0, ask, "a", []int{10}}, {1, ask, "b", []int{10}}}
	barred := Barred{}
	barred.Add("a", 1)
	moves := d.Moves([]Node{half, half}, placed, make([]bool, 2), barred, 9)
	if len(moves) != 1 || moves[0].Placed != 1 {
		t.Errorf("moves are %+v, want that of b to the node of a", moves)
	}
	barred.Add("b", 0)
	if moves := d.Moves([]Node{half, half}, placed, make([]bool, 2), barred, 9); moves != nil {
		t.Errorf("barred were moved: %+v", moves)
	}
}

// An allocation moves only to GPUs of its own vendor, even if another vendor's would gain
// more.
func TestAMoveKeepsTheVendor(t *testing.T) {
	half := func(vendors ...string) Node {
		n := Node{CPU: 4000, MemoryMiB: 4000}
		for _, v := range vendors {
			n.Groups = append(n.Groups, Group{Free: 10, Total: 20, Unit: 0.05, Vendor: v})
		}
		return n
	}
	d := Demand{{Ask{CPU: 100, MemoryMiB: 100, Instances: 20, Requests: 1}, 1}}
	placed := []Placed{{0, Ask{CPU: 100, Instances: 10, Requests: 1, Vendor: "nvidia"}, "a", []int{10}}}
	if moves := d.Moves([]Node{half("nvidia"), half("amd")}, placed, make([]bool, 2), nil, 9); moves != nil {
		t.Errorf("moved to another vendor: %+v", moves)
	}
	moves := d.Moves([]Node{half("nvidia"), half("amd"), half("amd", "nvidia")}, placed, make([]bool, 3), nil, 9)
	if len(moves) != 1 || moves[0].To != 2 {
		t.Errorf("moves are %+v, want one to node 2", moves)
	}
	if served := half("amd", "nvidia").FirstFit(placed[0].Ask); len(served) != 1 || served[0] != 1 {
		t.Errorf("groups %v serve it, want the second", served)
	}
}

// The stranded capacity of a node is at most its free capacity, and moves gain what they
// report.
func TestMovesGainWhatTheySay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDemand.Draw(t, "demand")
		var nodes []Node
		var placed []Placed
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			n := Node{CPU: 64000, MemoryMiB: 65536}
			for range rapid.IntRange(1, 3).Draw(t, "GPUs") {
				n.Groups = append(n.Groups, Group{Free: 20, Total: 20, Unit: 0.05})
			}
			for range rapid.IntRange(0, 5).Draw(t, "allocations") {
				a := Ask{CPU: 100, Instances: rapid.IntRange(1, 20).Draw(t, "instances"), Requests: 1}
				if served := n.FirstFit(a); served != nil {
					p := Placed{Node: i, Ask: a, Held: make([]int, len(n.Groups))}
					p.Held[served[0]] = a.Instances
					placed, n = append(placed, p), n.After(a, served)
				}
			}
			if s := d.Stranded(n); s < 0 || s > n.Free()+rounding {
				t.Fatalf("%v of %v free are stranded", s, n.Free())
			}
			nodes = append(nodes, n)
		}
		waste := func(nodes []Node) (sum float64) {
			for _, n := range nodes {
				sum += d.Waste(n)
			}
			return sum
		}
		before := waste(nodes)
		gain := 0.0
		moves := d.Moves(nodes, placed, make([]bool, len(nodes)), nil, 3)
		after := append([]Node(nil), nodes...)
		for _, m := range moves {
			p := placed[m.Placed]
			after[m.From] = after[m.From].without(p)
			if !p.Fits(after[m.To]) {
				t.Fatalf("%+v does not fit on node %d", p, m.To)
			}
			after[m.To] = after[m.To].After(p.Ask, after[m.To].FirstFit(p.Ask))
			gain += m.Gain
		}
		if got := before - waste(after); math.Abs(got-gain) > rounding {
			t.Fatalf("the waste falls by %v, the moves say %v", got, gain)
		}
	})
}
