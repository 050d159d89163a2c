package main

import "aliquot.example/internal/pack"

// lossAt is the demand, in percent of capacity, at which losses are read.
const lossAt = 100

// loss is the GPU capacity that tasks have not been allocated, by cause, in GPUs. The causes
// of free capacity are means over the tasks of the demand that ask for a GPU.
type loss struct {
	rounded float64 // tasks hold it and did not ask for it, because slices are whole
	small   float64 // free on GPUs with fewer free slices than the task needs
	host    float64 // free on nodes with less CPU or memory than the task needs
	usable  float64 // free, and the task fits
}

// lossOf divides the capacity that is not allocated by cause.
func lossOf(nodes []pack.Node, demand pack.Demand, capacity, allocated float64) loss {
	weights, free := 0.0, 0.0
	for _, t := range demand {
		if t.Instances > 0 {
			weights += t.Weight
		}
	}
	var l loss
	for _, n := range nodes {
		free += n.Free()
		for _, t := range demand {
			if t.Instances > 0 {
				l.add(n, t.Ask, t.Weight/weights)
			}
		}
	}
	l.rounded = capacity - allocated - free
	return l
}

// add counts what is free on a node for a part of the demand.
func (l *loss) add(n pack.Node, a pack.Ask, part float64) {
	for _, g := range n.Groups {
		// The group alone decides whether what is free is too small; a task of several GPUs
		// may also lack a second one.
		alone := pack.Node{CPU: a.CPU, MemoryMiB: a.MemoryMiB, Groups: []pack.Group{g}}
		one := a
		one.Requests = 1
		free := part * float64(g.Free) * g.Unit
		switch {
		case !one.Fits(alone):
			l.small += free
		case !a.FitsHost(n):
			l.host += free
		case !a.Fits(n):
			l.small += free
		default:
			l.usable += free
		}
	}
}
