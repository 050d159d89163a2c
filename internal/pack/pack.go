// Package pack says how well a task would lie on a node: how much GPU capacity that
// the usual tasks could still use it would cost. Nodes publish the answer as levels,
// and jobs order nodes by them. It is pure: it maps what is free and what is usually
// asked for to levels, and reads nothing else.
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

// Node is what a node has free.
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

// Ask is what one task asks of a node.
type Ask struct {
	CPU       int `json:"cpu"` // MHz
	MemoryMiB int `json:"memory"`
	// Instances that each of Requests asks of one group; 0 for a task without GPU.
	Instances int `json:"instances"`
	// Requests is the number of device requests, each for Instances.
	Requests int `json:"requests"`
	// Of is the number of slices that each GPU must be cut into, 1 for whole GPUs, 0 where
	// any number does.
	Of int `json:"of,omitempty"`
	// Vendor whose GPUs alone serve it, "" where any do. The typical demand names none.
	Vendor string `json:"-"`
}

// fits reports whether a group can serve one of the requests.
func (a Ask) fits(g Group) bool { return a.takes(g) && g.Free >= a.Instances }

// takes reports whether a group is of a vendor and a cut that can serve the requests.
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
	// Weight is how often it is asked for, relative to the others.
	Weight float64 `json:"weight"`
}

// Demand is what a cluster is usually asked to run. Its weights need no sum.
type Demand []Typical

// Waste returns the GPU capacity, in GPUs, that a task drawn from the demand is
// expected to be unable to use: all that is free where it does not fit, else what is
// free in groups that cannot serve it. It is the fragmentation of the FGD paper
// (USENIX ATC 2023). A task without GPU uses none of it, whatever is free.
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

// After returns the node with the task on it, on the groups that served lists.
func (n Node) After(a Ask, served []int) Node {
	out := Node{CPU: n.CPU - a.CPU, MemoryMiB: n.MemoryMiB - a.MemoryMiB, Groups: append([]Group(nil), n.Groups...)}
	for _, i := range served {
		out.Groups[i].Free -= a.Instances
	}
	return out
}

// FirstFit returns the groups that would serve the task if each request took the
// first group that can serve it, and nil where it does not fit or needs none. It is
// the choice of Nomad's scheduler among groups whose affinities prefer a low index.
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

// Growth returns by how much the waste of a node grows with the task on it, in GPUs;
// it is negative where the task uses what others could not. False where it does not
// fit.
func (d Demand) Growth(n Node, a Ask) (float64, bool) {
	if !a.Fits(n) {
		return 0, false
	}
	return d.Waste(n.After(a, n.FirstFit(a))) - d.Waste(n), true
}
