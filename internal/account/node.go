// Package account reads the inputs of packing from Nomad and Consul: the free resources of nodes
// according to Nomad, and the typical demand.
package account

import (
	"cmp"
	"slices"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
)

// Held has the resources of a node that one allocation holds.
type Held struct {
	Allocation *api.Allocation
	CPU        int // MHz
	MemoryMiB  int
	// Instances has the number of held instances of each of the node's groups.
	Instances []int
}

// GPU returns the held GPU capacity, in GPUs.
func (h Held) GPU(n pack.Node) float64 {
	sum := 0.0
	for i, count := range h.Instances {
		sum += float64(count) * n.Groups[i].Unit
	}
	return sum
}

// Of returns the free resources of a node, and the allocations that hold the rest. Every allocation
// that has not ended counts, whatever its driver. Groups are in the order in which jobs with a
// packing policy fill them. Only healthy instances count.
func Of(node *api.Node, allocations []*api.Allocation) (pack.Node, []Held) {
	var free pack.Node
	if r := node.NodeResources; r != nil {
		free.CPU, free.MemoryMiB = int(r.Cpu.CpuShares), int(r.Memory.MemoryMB)
	}
	if r := node.ReservedResources; r != nil {
		free.CPU -= int(r.Cpu.CpuShares)
		free.MemoryMiB -= int(r.Memory.MemoryMB)
	}
	place := map[string]int{} // instance to index in the list of groups
	for i, group := range groups(node) {
		g := pack.Group{Unit: unit(group), Vendor: group.Vendor}
		for _, instance := range group.Instances {
			if instance.Healthy {
				g.Total++
				place[instance.ID] = i
			}
		}
		g.Free = g.Total
		free.Groups = append(free.Groups, g)
	}
	var held []Held
	for _, a := range allocations {
		if a.ClientTerminalStatus() || a.AllocatedResources == nil {
			continue
		}
		h := holds(a, place, len(free.Groups))
		free.CPU -= h.CPU
		free.MemoryMiB -= h.MemoryMiB
		for i, n := range h.Instances {
			free.Groups[i].Free -= n
		}
		held = append(held, h)
	}
	return free, held
}

func holds(a *api.Allocation, place map[string]int, groups int) Held {
	h := Held{Allocation: a, Instances: make([]int, groups)}
	for _, r := range a.AllocatedResources.Tasks {
		h.CPU += int(r.Cpu.CpuShares)
		h.MemoryMiB += int(r.Memory.MemoryMB)
		for _, d := range r.Devices {
			for _, id := range d.DeviceIDs {
				if i, ok := place[id]; ok {
					h.Instances[i]++
				}
			}
		}
	}
	return h
}

// groups returns a node's GPU groups, sorted by index.
func groups(node *api.Node) []*api.NodeDeviceResource {
	if node.NodeResources == nil {
		return nil
	}
	var out []*api.NodeDeviceResource
	for _, group := range node.NodeResources.Devices {
		if group.Type == gpu.DeviceType {
			out = append(out, group)
		}
	}
	slices.SortFunc(out, func(a, b *api.NodeDeviceResource) int {
		return cmp.Or(cmp.Compare(number(a, "index"), number(b, "index")), cmp.Compare(a.Vendor, b.Vendor),
			cmp.Compare(a.Name, b.Name))
	})
	return out
}

// unit returns which fraction of a GPU one instance of a group is.
func unit(group *api.NodeDeviceResource) float64 {
	if n := number(group, "slices"); n > 0 {
		return 1 / float64(n)
	}
	return 1
}

// number returns an attribute that is a whole number. Without the attribute, which is missing if
// the group's GPUs differ in it, it returns 0 for "slices" and otherwise a number that sorts last.
func number(group *api.NodeDeviceResource, name string) int64 {
	const last = 1 << 30
	a := group.Attributes[name]
	switch {
	case a != nil && a.IntVal != nil:
		return *a.IntVal
	case name == "slices":
		return 0
	}
	return last
}

// class returns the class of a group's GPUs, "" if the device plugin has set none.
func class(group *api.NodeDeviceResource) string {
	if a := group.Attributes["class"]; a != nil && a.StringVal != nil {
		return *a.StringVal
	}
	return ""
}
