package share

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Joint is a way in which the GPUs of an island are connected.
type Joint string

// The joints, closest first.
const (
	// ByLink is a direct link between every two of them, or one switch of such links:
	// NVLink or xGMI.
	ByLink Joint = "link"
	// BySwitch is one PCIe switch above them.
	BySwitch Joint = "switch"
	// ByNUMA is one NUMA node next to them.
	ByNUMA Joint = "numa"
)

// Joints lists all joints.
func Joints() []Joint { return []Joint{ByLink, BySwitch, ByNUMA} }

// MaxJoined is the largest request for which nodes have an attribute with an island.
const MaxJoined = 16

// Attribute returns the name of the device attribute with the instances of the island that a
// request for k should use.
func (j Joint) Attribute(k int) string { return fmt.Sprintf("unique.%s_for_%d", j, k) }

// ParseJoint reads the name of a joint.
func ParseJoint(name string) (Joint, bool) {
	return Joint(name), slices.Contains(Joints(), Joint(name))
}

// Island is a set of instances of one group whose GPUs are connected.
type Island struct {
	// Number of the NUMA node, or the island's place among those of its kind.
	Number int
	// IDs of the instances.
	IDs []string
}

// Islands divides the offers of one group into islands. No instance is in two islands of the same
// kind. MIG devices are in none, because they cannot access each other.
func Islands(offers []Offer, by Joint) []Island {
	var out []Island
	var members [][]Offer
	for _, o := range offers {
		if o.Sharing == gpu.SharingMIG || !reaches(o, by) {
			continue
		}
		i := slices.IndexFunc(members, func(of []Offer) bool {
			return !slices.ContainsFunc(of, func(m Offer) bool { return !joined(m, o, by) })
		})
		if i < 0 {
			number := len(members)
			if by == ByNUMA {
				number = o.NUMANode
			}
			i, members, out = len(members), append(members, nil), append(out, Island{Number: number})
		}
		members[i] = append(members[i], o)
		out[i].IDs = append(out[i].IDs, o.Instances()...)
	}
	if by == ByNUMA {
		return out // for NUMA nodes, a single GPU is an island, too
	}
	out = slices.DeleteFunc(out, func(i Island) bool { return len(i.IDs) < 2 })
	for i := range out {
		out[i].Number = i
	}
	return out
}

// reaches reports whether a GPU has the property that may connect it to others.
func reaches(o Offer, by Joint) bool {
	switch by {
	case ByLink:
		return len(o.Links) > 0 || len(o.LinkSwitches) > 0 || o.Parent != ""
	case BySwitch:
		return o.Switch != ""
	}
	return o.NUMANode >= 0
}

// joined reports whether two GPUs belong to one island. Partitions of one card do.
func joined(a, b Offer, by Joint) bool {
	switch by {
	case ByLink:
		return a.PCI == b.PCI || slices.Contains(a.Links, b.PCI) ||
			slices.ContainsFunc(a.LinkSwitches, func(s string) bool { return slices.Contains(b.LinkSwitches, s) })
	case BySwitch:
		return a.Switch == b.Switch
	}
	return a.NUMANode == b.NUMANode
}

// Largest returns the size of the largest island.
func Largest(islands []Island) int {
	n := 0
	for _, i := range islands {
		n = max(n, len(i.IDs))
	}
	return n
}

// Choose returns the island for a request for k instances. Among the islands with room, it is the
// one with the least room, so that later large requests find room. If none has room, it is the
// island of at least k instances with the most room. The second result is false if no island is
// large enough.
func Choose(islands []Island, free func(id string) bool, k int) (Island, bool) {
	best, most := -1, 0
	better := func(n int) bool {
		switch {
		case best < 0:
			return true
		case most >= k:
			return n >= k && n < most
		}
		return n > most
	}
	for i, island := range islands {
		if len(island.IDs) < k {
			continue
		}
		n := 0
		for _, id := range island.IDs {
			if free(id) {
				n++
			}
		}
		if better(n) {
			best, most = i, n
		}
	}
	if best < 0 {
		return Island{}, false
	}
	return islands[best], true
}

// Attributes describes which instances of a group are connected. free reports whether an instance
// is available. The group is not split, so that one request can have all of its GPUs. Nomad takes
// the instances of a group in any order, so a job that needs connected ones compares ${device.ids}
// with one of the lists:
//
//   - unique.<joint>_<number> are the instances of one island;
//   - unique.<joint>_for_<k> are those of the island that a request for k should use
//     now, see Choose.
//
// <joint>_size is the size of the largest island. Its name does not begin with "unique.", so that
// Nomad's servers include it in the class of nodes: then a job that does not fit into the islands
// of one node can still wait for other nodes.
func Attributes(offers []Offer, free func(id string) bool) (lists map[string]string, sizes map[string]int) {
	lists, sizes = map[string]string{}, map[string]int{}
	if len(offers) < 2 {
		return lists, sizes
	}
	for _, by := range Joints() {
		islands := Islands(offers, by)
		for _, i := range islands {
			lists[fmt.Sprintf("unique.%s_%d", by, i.Number)] = strings.Join(i.IDs, ",")
		}
		largest := Largest(islands)
		if largest < 2 {
			continue
		}
		sizes[string(by)+"_size"] = largest
		for k := 2; k <= min(largest, MaxJoined); k++ {
			if i, ok := Choose(islands, free, k); ok {
				lists[by.Attribute(k)] = strings.Join(i.IDs, ",")
			}
		}
	}
	return lists, sizes
}
