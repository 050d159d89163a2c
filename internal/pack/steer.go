package pack

import (
	"fmt"
	"strconv"
)

// Policy is the order in which a job fills nodes.
type Policy string

// The policies.
const (
	Fragmentation Policy = "fragmentation" // where the remaining capacity is most useful
	BestFit       Policy = "best-fit"      // where the least capacity remains
	Spread        Policy = "spread"        // where the most capacity remains
	None          Policy = "none"          // as Nomad does
)

// Policies lists all policies.
func Policies() []Policy { return []Policy{Fragmentation, BestFit, Spread, None} }

// Target is one value of a spread and its percentage.
type Target struct {
	Value   string
	Percent int
}

// Affinity is one affinity of a job or of a device request.
type Affinity struct {
	Attribute, Operand, Value string
	Weight                    int
}

// Steering is what a group of a job carries to fill nodes in the order of a policy. The zero
// value leaves the order to Nomad.
type Steering struct {
	// SpreadAttribute is the attribute of the spread, "" for no spread.
	SpreadAttribute string
	Targets         []Target
	Affinities      []Affinity
	// Devices are the affinities of each request for a GPU.
	Devices []Affinity
}

// targets are the percentages of a spread, the preferred value first. For a group with one
// allocation, a target of p percent scores 1-100/p, from -2 down to -99. The steps are
// larger than the differences of all other scores together, so the order holds whatever
// they are. Nomad's documentation does not mention this arithmetic; bench/packing tests it.
var targets = [Levels]int{33, 20, 14, 10, 7, 5, 4, 3, 2, 1}

// SpreadWeight is the weight of the spread, the greatest that Nomad accepts.
const SpreadWeight = 100

func node(attribute string) string { return "${attr." + attribute + "}" }

// inOrder returns targets that prefer the values 0 to n-1 in this order, or in reverse.
func inOrder(n int, reverse bool) []Target {
	out := make([]Target, n)
	for i := range out {
		value := i
		if reverse {
			value = n - 1 - i
		}
		out[i] = Target{strconv.Itoa(value), targets[i]}
	}
	return out
}

// Steer returns what a group of the class carries under a policy.
func Steer(p Policy, c Class) Steering {
	switch p {
	case Fragmentation:
		return Steering{
			SpreadAttribute: node(c.Attribute()), Targets: inOrder(Levels, false),
			Affinities: fuller(), Devices: ofGPU(c),
		}
	case BestFit:
		return Steering{SpreadAttribute: node(RoomAttribute), Targets: inOrder(Rooms, false), Devices: ofGPU(c)}
	case Spread:
		return Steering{SpreadAttribute: node(RoomAttribute), Targets: inOrder(Rooms, true)}
	}
	return Steering{}
}

// fuller returns affinities for nodes with less free capacity. The more of them hold, the
// higher is the score.
func fuller() []Affinity {
	var out []Affinity
	for i := 1; i < Rooms; i++ {
		out = append(out, Affinity{node(RoomAttribute), "<", strconv.Itoa(i), 100})
	}
	return out
}

// indices is the number of GPUs of a node that the order of filling distinguishes.
const indices = 8

func ofGPU(c Class) []Affinity {
	if c.Typical.Instances == 0 {
		return nil
	}
	return LowIndexFirst()
}

// LowIndexFirst returns the affinities of a device request that fill GPU 0 before GPU 1. The
// published levels assume this order.
func LowIndexFirst() []Affinity {
	var out []Affinity
	for i := 1; i < indices; i++ {
		out = append(out, Affinity{"${device.attr.index}", "<", strconv.Itoa(i), 50})
	}
	return out
}

// ParsePolicy reads the name of a policy.
func ParsePolicy(name string) (Policy, error) {
	for _, p := range Policies() {
		if string(p) == name {
			return p, nil
		}
	}
	return "", fmt.Errorf("unknown policy %q: use fragmentation, best-fit, spread or none", name)
}
