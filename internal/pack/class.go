package pack

import (
	"cmp"
	"fmt"
	"slices"
)

// Class is a set of tasks of one size, for which nodes publish one level. A common size has two
// classes, one with little CPU and one with much.
type Class struct {
	// Name is part of an attribute's name: "17", or "17_low" and "17_high" if the size has
	// two classes, "20x8" for eight requests of 20 instances, "4of1" for four whole GPUs,
	// and "cpu" for tasks without a GPU.
	Name string
	// Typical represents the class: its CPU and memory are the means of the class.
	Typical Ask
	// MinCPU and Below bound the CPU of the class, in MHz. Below is excluded, and 0 for no bound.
	MinCPU, Below int
}

// commonPart is the part of the demand from which a size has two classes. Each class costs an
// attribute, and rare sizes matter little. Decision 13 describes the benefit of the split.
const commonPart = 0.05

// MaxClasses bounds how many levels a node publishes.
const MaxClasses = 40

type size struct{ instances, requests, of int }

func (a Ask) size() size {
	if a.Instances == 0 || a.Requests == 0 {
		return size{}
	}
	return size{a.Instances, a.Requests, a.Of}
}

func (s size) String() string {
	if s.instances == 0 {
		return "cpu"
	}
	name := fmt.Sprint(s.instances)
	if s.of > 0 {
		name += fmt.Sprintf("of%d", s.of)
	}
	if s.requests > 1 {
		name += fmt.Sprintf("x%d", s.requests)
	}
	return name
}

// Classes returns the classes of a demand, the largest first, at most MaxClasses. The rarest sizes
// may have none.
func (d Demand) Classes() []Class {
	bySize := map[size]Demand{}
	weight := map[size]float64{}
	total := 0.0
	for _, t := range d {
		if t.Weight <= 0 {
			continue
		}
		bySize[t.size()] = append(bySize[t.size()], t)
		weight[t.size()] += t.Weight
		total += t.Weight
	}
	var sizes []size
	for s := range bySize {
		sizes = append(sizes, s)
	}
	slices.SortFunc(sizes, func(a, b size) int {
		return cmp.Or(cmp.Compare(weight[b], weight[a]), cmp.Compare(b.instances, a.instances),
			cmp.Compare(b.requests, a.requests), cmp.Compare(b.of, a.of))
	})
	var out []Class
	for _, s := range sizes {
		classes := split(s, bySize[s], weight[s] >= commonPart*total)
		if len(out)+len(classes) <= MaxClasses {
			out = append(out, classes...)
		}
	}
	slices.SortFunc(out, func(a, b Class) int {
		x, y := a.Typical, b.Typical
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(y.Instances, x.Instances),
			cmp.Compare(y.Of, x.Of), cmp.Compare(a.MinCPU, b.MinCPU))
	})
	return out
}

// split returns one class for the tasks of one size, or two, divided at the median of their
// CPU.
func split(s size, tasks Demand, common bool) []Class {
	slices.SortFunc(tasks, func(a, b Typical) int { return cmp.Compare(a.CPU, b.CPU) })
	total, sum := 0.0, 0.0
	for _, t := range tasks {
		total += t.Weight
	}
	at := 0
	for at < len(tasks) && sum < total/2 {
		sum += tasks[at].Weight
		at++
	}
	for at < len(tasks) && tasks[at].CPU == tasks[at-1].CPU { // equal values stay in one class
		at++
	}
	if at == len(tasks) { // the median is the largest value, so the smaller ones are the other class
		for at > 0 && tasks[at-1].CPU == tasks[len(tasks)-1].CPU {
			at--
		}
	}
	if !common || at == 0 {
		return []Class{{Name: s.String(), Typical: tasks.mean(s)}}
	}
	border := tasks[at].CPU
	return []Class{
		{Name: s.String() + "_low", Typical: tasks[:at].mean(s), Below: border},
		{Name: s.String() + "_high", Typical: tasks[at:].mean(s), MinCPU: border},
	}
}

func (d Demand) mean(s size) Ask {
	cpu, memory, weights := 0.0, 0.0, 0.0
	for _, t := range d {
		cpu += t.Weight * float64(t.CPU)
		memory += t.Weight * float64(t.MemoryMiB)
		weights += t.Weight
	}
	return Ask{CPU: int(cpu / weights), MemoryMiB: int(memory / weights), Instances: s.instances,
		Requests: s.requests, Of: s.of}
}

// ClassOf returns the class by which a task orders nodes: the class of its size, or of the next
// larger size, or the largest one. It prefers classes with the same number of requests. It returns
// false if no class suits the task.
func ClassOf(classes []Class, a Ask) (Class, bool) {
	want := a.size()
	best, found := Class{}, false
	rank := func(c Class) [4]int {
		s := c.Typical.size()
		short := max(0, want.instances-s.instances)
		return [4]int{unlike(s.of, want.of), abs(s.requests - want.requests), short, abs(s.instances - want.instances)}
	}
	for _, c := range classes {
		if (c.Typical.Instances == 0) != (want.instances == 0) || a.CPU < c.MinCPU || c.Below > 0 && a.CPU >= c.Below {
			continue
		}
		if r, b := rank(c), rank(best); !found || slices.Compare(r[:], b[:]) < 0 {
			best, found = c, true
		}
	}
	return best, found
}

// unlike returns how different two numbers of slices are, from 0 to 2. Four slices and four
// whole GPUs have nothing in common; 0, for any number, has something in common with each.
func unlike(a, b int) int {
	switch {
	case a == b:
		return 0
	case a == 0 || b == 0:
		return 1
	}
	return 2
}

func abs(n int) int { return max(n, -n) }
