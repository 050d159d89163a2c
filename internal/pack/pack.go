// Package pack computes how well a task would fit a node: how much GPU capacity it would
// make unusable for typical tasks. Nodes publish the result as levels, and jobs order
// nodes by them. The package does no I/O: it maps free capacity and the typical demand to
// levels.
package pack

import "math"

// Group is one device group of a node: the slices of one shared GPU, or the whole
// GPUs of one model. One request is served from one group.
type Group struct {
	// Free of Total instances, in 0 to Total.
	Free, Total int
	// Unit is the part of a GPU that one instance is: 1/N for one of N slices.
	Unit float64
	// Vendor of the GPUs.
	Vendor string
}

// Slices is the number of slices that each GPU of the group is cut into, 1 for whole GPUs.
func (g Group) Slices() int { return int(math.Round(1 / g.Unit)) }

// Node is the free capacity of a node.
type Node struct {
	CPU       int // MHz
	MemoryMiB int
	Groups    []Group
}

// Free returns the GPU capacity that no task holds, in GPUs.
func (n Node) Free() float64 {
	sum := 0.0
	for _, g := range n.Groups {
		sum += float64(g.Free) * g.Unit
	}
	return sum
}

// Ask is what one task requests from a node.
type Ask struct {
	CPU       int `json:"cpu"` // MHz
	MemoryMiB int `json:"memory"`
	// Instances that each of Requests takes from one group; 0 for a task without GPU.
	Instances int `json:"instances"`
	// Requests is the number of device requests, each for Instances.
	Requests int `json:"requests"`
	// Of is the number of slices that each GPU must be cut into: 1 for whole GPUs, 0 for any
	// number.
	Of int `json:"of,omitempty"`
	// Vendor of the GPUs, "" for any. The typical demand names none.
	Vendor string `json:"-"`
}

// fits reports whether a group can serve one of the requests.
func (a Ask) fits(g Group) bool { return a.takes(g) && g.Free >= a.Instances }

// takes reports whether the vendor and the number of slices of a group suit the requests.
func (a Ask) takes(g Group) bool {
	return (a.Vendor == "" || a.Vendor == g.Vendor) && (a.Of == 0 || a.Of == g.Slices())
}

// FitsHost reports whether CPU and memory suffice.
func (a Ask) FitsHost(n Node) bool { return a.CPU <= n.CPU && a.MemoryMiB <= n.MemoryMiB }

// Fits reports whether a node has room for the task.
func (a Ask) Fits(n Node) bool {
	if !a.FitsHost(n) {
		return false
	}
	if a.Instances == 0 || a.Requests == 0 {
		return true
	}
	served := 0
	for _, g := range n.Groups {
		if !a.takes(g) {
			continue
		}
		if served += g.Free / a.Instances; served >= a.Requests {
			return true
		}
	}
	return false
}

// Typical is one kind of task among those that a cluster is usually asked to run.
type Typical struct {
	Ask
	// Weight is how often it is requested, relative to the others.
	Weight float64 `json:"weight"`
}

// Demand is what a cluster is usually asked to run. Its weights may have any sum.
type Demand []Typical

// Waste returns the expected GPU capacity, in GPUs, that a task drawn from the demand
// cannot use: all free capacity if the task does not fit, else the free capacity of the
// groups that cannot serve it. It is the fragmentation of the FGD paper (USENIX ATC 2023).
// A task without a GPU can use none of the capacity.
func (d Demand) Waste(n Node) float64 {
	free := n.Free()
	if free == 0 {
		return 0
	}
	sum, weights := 0.0, 0.0
	for _, t := range d {
		weights += t.Weight
		if t.Instances == 0 || !t.Fits(n) {
			sum += t.Weight * free
			continue
		}
		for _, g := range n.Groups {
			if !t.fits(g) {
				sum += t.Weight * float64(g.Free) * g.Unit
			}
		}
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// After returns the node with the task on it. The groups in served serve its requests.
func (n Node) After(a Ask, served []int) Node {
	out := Node{CPU: n.CPU - a.CPU, MemoryMiB: n.MemoryMiB - a.MemoryMiB, Groups: append([]Group(nil), n.Groups...)}
	for _, i := range served {
		out.Groups[i].Free -= a.Instances
	}
	return out
}

// FirstFit returns the groups that serve the task if each request takes the first group
// that can serve it. It returns nil if the task does not fit or needs no group. Nomad's
// scheduler chooses the same groups if the job's affinities prefer a low index.
func (n Node) FirstFit(a Ask) []int {
	if a.Instances == 0 {
		return nil
	}
	var served []int
	for i, g := range n.Groups {
		for free := g.Free; a.takes(g) && free >= a.Instances && len(served) < a.Requests; free -= a.Instances {
			served = append(served, i)
		}
	}
	if len(served) < a.Requests {
		return nil
	}
	return served
}

// Growth returns by how much the waste of a node grows with the task on it, in GPUs. It is
// negative if the task uses capacity that others could not. It returns false if the task
// does not fit.
func (d Demand) Growth(n Node, a Ask) (float64, bool) {
	if !a.Fits(n) {
		return 0, false
	}
	return d.Waste(n.After(a, n.FirstFit(a))) - d.Waste(n), true
}
