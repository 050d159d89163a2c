// Package top shows the state of a cluster: every GPU slice with the allocation that holds it, and
// every model service with its queue.
//
// Cluster collects a Snapshot, and Render draws it.
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
	// Starts are the durations of task starts.
	Starts []Start `json:"starts,omitempty"`
	// Notes say in one line each what could not be read, and why.
	Notes []string `json:"notes,omitempty"`
}

// Node is a Nomad client with at least one GPU.
type Node struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	// Problem says what could not be read from the node, and why; "" if everything was read.
	Problem string `json:"problem,omitempty"`
	GPUs    []GPU  `json:"gpus"`

	starts []Start // of its allocations
}

// GPU is one physical GPU, MIG device or partition that a node offers.
type GPU struct {
	Group       string `json:"group"`
	Vendor      string `json:"vendor"`
	ID          string `json:"id"`
	Model       string `json:"model"`
	Class       string `json:"class,omitempty"`
	Sharing     string `json:"sharing"`
	Enforcement string `json:"enforcement"`
	Level       string `json:"enforcement_level"`
	// MemoryMiB is the memory of the GPU, MemoryUsedMiB the used part, -1 if the node reports no
	// statistics.
	MemoryMiB     int64 `json:"memory_mib"`
	MemoryUsedMiB int64 `json:"memory_used_mib"`
	// UsePercent is the utilization of the GPU, -1 if unknown.
	UsePercent float64 `json:"use_percent"`
	Healthy    bool    `json:"healthy"`
	Health     string  `json:"health,omitempty"`
	Slices     []Slice `json:"slices"`
	// Unseen reports whether slices without an allocation may be held by one that the token may not
	// read.
	Unseen bool `json:"unseen,omitempty"`
}

// Slice is one device instance. Allocation is empty while the slice is free; see also GPU.Unseen.
type Slice struct {
	ID         string `json:"id"`
	Allocation string `json:"allocation,omitempty"`
	Job        string `json:"job,omitempty"`
	Task       string `json:"task,omitempty"`
	Healthy    bool   `json:"healthy"`
}

// Service is one model service as seen by its gateways.
type Service struct {
	Name    string      `json:"name"`
	Queued  float64     `json:"queued"`
	Active  float64     `json:"active"`
	Classes []Class     `json:"classes"`
	Tokens  *api.Tokens `json:"last_minute,omitempty"` // only of a language model
	// Quantile is the share of requests that have to meet the objective, 0 without an objective.
	Quantile float64 `json:"quantile,omitempty"`
	// ColdStarts are the learned cold starts by hardware class.
	ColdStarts map[string]api.ColdStart `json:"cold_starts,omitempty"`
}

// Class is the part of a service on one hardware class. Rate is the learned rate of one busy slot in
// requests per second, 0 while unknown.
type Class struct {
	Name     string  `json:"name"`
	Replicas int     `json:"replicas"`
	Slots    int     `json:"slots"`
	Active   float64 `json:"active"`
	Rate     float64 `json:"rate"`
	// Asleep is the number of sleeping replicas, which hold their devices without using them.
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

// split groups the instances of one device group by GPU. A shared GPU has all its slices in one
// group; in a group of whole GPUs, each GPU is one instance.
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
