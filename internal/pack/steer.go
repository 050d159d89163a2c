package pack

import (
	"fmt"
	"strconv"
)

// Policy is in which order a job fills nodes.
type Policy string

// The policies.
const (
	Fragmentation Policy = "fragmentation" // where what stays free is of most use
	BestFit       Policy = "best-fit"      // where least stays free
	Spread        Policy = "spread"        // where most stays free
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

// Steering is what a group of a job carries so that it fills nodes in the order of a
// policy. Its zero value leaves the order to Nomad.
type Steering struct {
	// SpreadAttribute is empty for no spread.
	SpreadAttribute string
	Targets         []Target
	Affinities      []Affinity
	// Devices are the affinities of each device request.
	Devices []Affinity
}

// targets are percentages of a spread, in the order in which values are wanted. A
// target of p percent scores 1-100/p for the first allocation of a job with one, from
// -2 down to -99: more than all other scores together differ, so that the order is
// kept whatever they say. This is arithmetic of Nomad's scheduler that its
// documentation does not name; a test holds it.
var targets = [Levels]int{33, 20, 14, 10, 7, 5, 4, 3, 2, 1}

// SpreadWeight is the weight of the spread: the greatest that Nomad takes.
const SpreadWeight = 100

func node(attribute string) string { return "${attr." + attribute + "}" }

// inOrder gives the values 0 to n-1 targets in this order, or in the opposite one.
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

// fuller prefers nodes with less free capacity: each affinity that holds adds its
// part.
func fuller() []Affinity {
	var out []Affinity
	for i := 1; i < Rooms; i++ {
		out = append(out, Affinity{node(RoomAttribute), "<", strconv.Itoa(i), 100})
	}
	return out
}

// indices is how many GPUs of a node are told apart in the order of filling.
const indices = 8

func ofGPU(c Class) []Affinity {
	if c.Typical.Instances == 0 {
		return nil
	}
	return LowIndexFirst()
}

// LowIndexFirst are the affinities of a device request that fills GPU 0 before GPU 1:
// the order that the published levels assume.
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
	return "", fmt.Errorf("%q is no policy: use fragmentation, best-fit, spread or none", name)
}
