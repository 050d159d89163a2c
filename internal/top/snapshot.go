// Package top shows what a cluster's GPUs and model services are doing: every
// slice with the allocation that holds it, and every service with its queue.
//
// Snapshot is what is shown; Cluster collects it and Render draws it.
package top

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/gpu"
)

// Snapshot is the state of a cluster at one moment. It is also the output of
// `aliquot top -json`, so its field names are an interface.
type Snapshot struct {
	At       time.Time `json:"at"`
	Nodes    []Node    `json:"nodes"`
	Services []Service `json:"services"`
	// Starts are what starts of tasks took.
	Starts []Start `json:"starts,omitempty"`
	// Notes are one-line remarks on what could not be read and why.
	Notes []string `json:"notes,omitempty"`
}

// Node is a Nomad client with at least one GPU.
type Node struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	// Problem says what of the node could not be read and why, "" for nothing.
	Problem string `json:"problem,omitempty"`
	GPUs    []GPU  `json:"gpus"`

	starts []Start // of its allocations
}

// GPU is one physical GPU, MIG device or partition as the node offers it.
type GPU struct {
	Group       string `json:"group"`
	Vendor      string `json:"vendor"`
	ID          string `json:"id"`
	Model       string `json:"model"`
	Class       string `json:"class,omitempty"`
	Sharing     string `json:"sharing"`
	Enforcement string `json:"enforcement"`
	Level       string `json:"enforcement_level"`
	// MemoryMiB is what the GPU offers, MemoryUsedMiB what its tasks use; -1
	// when the node reports no statistics.
	MemoryMiB     int64 `json:"memory_mib"`
	MemoryUsedMiB int64 `json:"memory_used_mib"`
	// UsePercent is the utilisation of the GPU, -1 when unknown.
	UsePercent float64 `json:"use_percent"`
	Healthy    bool    `json:"healthy"`
	Health     string  `json:"health,omitempty"`
	Slices     []Slice `json:"slices"`
	// Unseen is set where slices without an allocation may be held by one that the
	// token may not see.
	Unseen bool `json:"unseen,omitempty"`
}

// Slice is one device instance. Allocation is empty while it is free, see also
// GPU.Unseen.
type Slice struct {
	ID         string `json:"id"`
	Allocation string `json:"allocation,omitempty"`
	Job        string `json:"job,omitempty"`
	Task       string `json:"task,omitempty"`
	Healthy    bool   `json:"healthy"`
}

// Service is one model service as its gateways see it.
type Service struct {
	Name    string      `json:"name"`
	Queued  float64     `json:"queued"`
	Active  float64     `json:"active"`
	Classes []Class     `json:"classes"`
	Tokens  *api.Tokens `json:"last_minute,omitempty"` // of a language model
	// Quantile is the part of the requests that the objective is promised to, 0 where there is none.
	Quantile float64 `json:"quantile,omitempty"`
	// ColdStarts are what is learned of starts, by hardware class.
	ColdStarts map[string]api.ColdStart `json:"cold_starts,omitempty"`
}

// Class is the part of a service that runs on one hardware class. Rate is the
// learned rate of one busy slot in requests per second, 0 while unknown.
type Class struct {
	Name     string  `json:"name"`
	Replicas int     `json:"replicas"`
	Slots    int     `json:"slots"`
	Active   float64 `json:"active"`
	Rate     float64 `json:"rate"`
	// Asleep is how many of the replicas hold their devices without using them.
	Asleep int `json:"asleep,omitempty"`
}

// Used counts the slices that an allocation holds.
func (g GPU) Used() int {
	n := 0
	for _, s := range g.Slices {
		if s.Allocation != "" {
			n++
		}
	}
	return n
}

// split parts the instances of one device group into its GPUs: a shared GPU has
// all its slices in one group, a group of whole GPUs has one instance each.
func split(instances []Slice) map[gpu.ID][]Slice {
	out := map[gpu.ID][]Slice{}
	for _, s := range instances {
		id := gpu.ID(s.ID)
		if parsed, err := gpu.ParseSlice(s.ID); err == nil {
			id = parsed.GPU
		}
		out[id] = append(out[id], s)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b Slice) int { return strings.Compare(a.ID, b.ID) })
	}
	return out
}

func (s *Snapshot) sort() {
	slices.SortFunc(s.Nodes, func(a, b Node) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	for _, n := range s.Nodes {
		slices.SortFunc(n.GPUs, func(a, b GPU) int {
			return cmp.Or(strings.Compare(a.Vendor, b.Vendor), strings.Compare(a.Group, b.Group),
				strings.Compare(a.ID, b.ID))
		})
	}
	slices.SortFunc(s.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	for _, v := range s.Services {
		slices.SortFunc(v.Classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	}
}
