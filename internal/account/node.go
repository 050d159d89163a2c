// Package account reads what packing needs from Nomad and Consul: what nodes have free,
// by Nomad's own account, and what is usually asked for.
package account

import (
	"cmp"
	"slices"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
)

// Held is what one allocation holds of a node.
type Held struct {
	Allocation *api.Allocation
	CPU        int // MHz
	MemoryMiB  int
	// Instances counts, for each of the node's groups, the instances that it holds.
	Instances []int
}

// GPU is the GPU capacity that it holds of the node, in GPUs.
func (h Held) GPU(n pack.Node) float64 {
	sum := 0.0
	for i, count := range h.Instances {
		sum += float64(count) * n.Groups[i].Unit
	}
	return sum
}

// Of returns what a node has free and who holds the rest. Every allocation counts that
// has not ended, of whatever driver. Groups are in the order in which jobs of a packing
// policy fill them, and only healthy instances count.
func Of(node *api.Node, allocations []*api.Allocation) (pack.Node, []Held) {
	var free pack.Node
	if r := node.NodeResources; r != nil {
		free.CPU, free.MemoryMiB = int(r.Cpu.CpuShares), int(r.Memory.MemoryMB)
	}
	if r := node.ReservedResources; r != nil {
		free.CPU -= int(r.Cpu.CpuShares)
		free.MemoryMiB -= int(r.Memory.MemoryMB)
	}
	place := map[string]int{} // of an instance, in the list of groups
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

// groups are a node's GPU groups, those of a lower index first.
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

// unit is the part of a GPU that one instance of a group is.
func unit(group *api.NodeDeviceResource) float64 {
	if n := number(group, "slices"); n > 0 {
		return 1 / float64(n)
	}
	return 1
}

// number reads a whole number among a group's attributes; a group of GPUs with
// different values has none, and counts as the last.
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

// class is the class of a group's GPUs, "" where the device plugin names none.
func class(group *api.NodeDeviceResource) string {
	if a := group.Attributes["class"]; a != nil && a.StringVal != nil {
		return *a.StringVal
	}
	return ""
}
