package view

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"aliquot.example/internal/top"
)

// Cluster is the view of nodes and GPUs.
type Cluster struct {
	Sources []Source `json:"sources"`
	Totals  Totals   `json:"totals"`
	// Jobs are the jobs that hold slices, in the order of their colours.
	Jobs  []string      `json:"jobs"`
	Nodes []ClusterNode `json:"nodes"`
	Notes []string      `json:"notes,omitempty"`
	// Rollout is the rollout of GPU drivers, nil if there is none.
	Rollout *Rollout `json:"rollout,omitempty"`
}

// Totals sum up the cluster.
type Totals struct {
	Nodes     int     `json:"nodes"`
	GPUs      int     `json:"gpus"`
	Unhealthy int     `json:"unhealthy"`
	Capacity  float64 `json:"capacity"` // in GPUs, like Free and Stranded
	Free      float64 `json:"free"`
	Stranded  float64 `json:"stranded"`
}

// ClusterNode is one node.
type ClusterNode struct {
	Name     string       `json:"name"`
	ID       string       `json:"id"`
	Status   string       `json:"status"`
	Problem  string       `json:"problem,omitempty"`
	Free     float64      `json:"free"`
	Stranded float64      `json:"stranded"`
	GPUs     []ClusterGPU `json:"gpus"`
}

// ClusterGPU is one GPU with a bar of its slices.
type ClusterGPU struct {
	Name        string  `json:"name"`
	ID          string  `json:"id"`
	Vendor      string  `json:"vendor"`
	Class       string  `json:"class"`
	Model       string  `json:"model"`
	Sharing     string  `json:"sharing"`
	Enforcement string  `json:"enforcement"`
	Level       string  `json:"level"`
	MemoryMiB   int64   `json:"memory_mib"`
	UsedMiB     int64   `json:"used_mib"`    // -1 while unknown
	UsePercent  float64 `json:"use_percent"` // -1 while unknown
	Health      string  `json:"health,omitempty"`
	Since       *Since  `json:"since,omitempty"`
	Slices      int     `json:"slices"`
	Used        int     `json:"used"`
	Unseen      bool    `json:"unseen,omitempty"`
	Bar         []Part  `json:"bar"`
}

// Part is a number of slices in a bar that one allocation holds, or that are free.
type Part struct {
	Slices int    `json:"n"`
	Alloc  string `json:"alloc,omitempty"`
	Job    string `json:"job,omitempty"`
	// Colour is the index of the job in Cluster.Jobs, -1 for none.
	Colour int  `json:"colour"`
	Bad    bool `json:"bad,omitempty"`
}

// ClusterOf returns the view of the cluster.
func ClusterOf(f Facts) Cluster {
	out := Cluster{Sources: f.Sources, Jobs: jobs(f.Nodes), Nodes: []ClusterNode{}, Rollout: RolloutOf(f.Drivers)}
	colour := map[string]int{}
	for i, job := range out.Jobs {
		colour[job] = i
	}
	unseen := false
	for _, n := range f.Nodes {
		node := ClusterNode{Name: n.Name, ID: n.ID, Status: n.Status, Problem: n.Problem, Free: n.Free,
			Stranded: n.Stranded, GPUs: []ClusterGPU{}}
		for _, g := range n.GPUs {
			node.GPUs = append(node.GPUs, gpuOf(g, n.Unhealthy, colour))
			unseen = unseen || g.Unseen
			if !g.Healthy {
				out.Totals.Unhealthy++
			}
		}
		out.Totals.Nodes++
		out.Totals.GPUs += len(n.GPUs)
		out.Totals.Capacity += n.Total
		out.Totals.Free += n.Free
		out.Totals.Stranded += n.Stranded
		out.Nodes = append(out.Nodes, node)
	}
	if unseen {
		out.Notes = append(out.Notes,
			`Slices shown as free may be held by jobs in namespaces that this page's own token may not read: `+
				`give it read-job in namespace "*".`)
	}
	return out
}

func gpuOf(g top.GPU, since map[string]Since, colour map[string]int) ClusterGPU {
	out := ClusterGPU{
		Name: g.Group, ID: g.ID, Vendor: g.Vendor, Class: g.Class, Model: g.Model, Sharing: g.Sharing,
		Enforcement: g.Enforcement, Level: g.Level,
		MemoryMiB: g.MemoryMiB, UsedMiB: g.MemoryUsedMiB, UsePercent: g.UsePercent,
		Slices: len(g.Slices), Used: g.Used(), Unseen: g.Unseen, Bar: bar(g.Slices, colour),
	}
	if !g.Healthy {
		if out.Health = g.Health; out.Health == "" {
			out.Health = "the device plugin gives no reason"
		}
		if s, ok := since[g.ID]; ok {
			out.Since = &s
		}
	}
	return out
}

// bar joins the slices of each allocation, the unhealthy ones and the free ones to parts.
func bar(all []top.Slice, colour map[string]int) []Part {
	out := []Part{}
	for _, s := range top.SideBySide(all) {
		p := Part{Slices: 1, Alloc: s.Allocation, Job: s.Job, Colour: -1, Bad: !s.Healthy}
		if c, ok := colour[s.Job]; ok && s.Allocation != "" {
			p.Colour = c
		}
		if n := len(out); n > 0 && out[n-1].Alloc == p.Alloc && out[n-1].Bad == p.Bad {
			out[n-1].Slices++
			continue
		}
		out = append(out, p)
	}
	return out
}

func jobs(nodes []Node) []string {
	found := map[string]bool{}
	for _, n := range nodes {
		for _, g := range n.GPUs {
			for _, s := range g.Slices {
				if s.Allocation != "" {
					found[s.Job] = true
				}
			}
		}
	}
	out := slices.Sorted(maps.Keys(found))
	if out == nil {
		out = []string{}
	}
	return out
}

// Health has the time since which GPUs are unhealthy. Nomad does not report when health changed, so
// the page compares successive readings.
type Health map[string]Since

// Next returns the health after a new reading, and the changes. first is true for the first reading:
// its states began earlier.
func (h Health) Next(nodes []Node, now time.Time, first bool) (Health, []Seen) {
	next, seen := Health{}, []Seen{}
	for _, n := range nodes {
		for _, g := range n.GPUs {
			key := n.ID + "/" + g.ID
			old, was := h[key]
			switch {
			case g.Healthy && was:
				seen = append(seen, Seen{At: now, Node: n.Name, GPU: g.Group, Text: "is healthy again"})
			case g.Healthy:
			case was:
				next[key] = old
			default:
				next[key] = Since{At: now, Seen: !first}
				if !first {
					seen = append(seen, Seen{At: now, Node: n.Name, GPU: g.Group, Bad: true, Text: g.Health})
				}
			}
		}
	}
	return next, seen
}

// Of returns the states of one node's unhealthy GPUs by GPU.
func (h Health) Of(n Node) map[string]Since {
	out := map[string]Since{}
	for _, g := range n.GPUs {
		if s, ok := h[fmt.Sprintf("%s/%s", n.ID, g.ID)]; ok {
			out[g.ID] = s
		}
	}
	return out
}
