package driver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
)

// RolloutPrefix is the default prefix of the documents of rollouts in Consul KV.
const RolloutPrefix = "aliquot/node"

// NodeReport is the document in which a node's agent reports its state.
type NodeReport struct {
	Node  string `json:"node"`
	ID    string `json:"id"`
	Class string `json:"class,omitempty"`
	Phase Phase  `json:"phase"`
	// Why says what it waits for, or why it failed.
	Why string `json:"why,omitempty"`
	// Trouble says which document in Consul the node does not understand.
	Trouble string `json:"trouble,omitempty"`
	// Wanted is the version that the node is changing to; Drivers are the installed ones.
	Wanted  string                   `json:"wanted,omitempty"`
	Drivers map[gpu.Vendor]Installed `json:"drivers,omitempty"`
	GPUs    int                      `json:"gpus"`
	// Since is when the phase began.
	Since time.Time `json:"since"`
}

// Reason returns what the node waits for or why it failed, and which document it does not understand.
func (r NodeReport) Reason() string {
	if r.Trouble == "" || strings.Contains(r.Why, r.Trouble) {
		return r.Why
	}
	return strings.TrimPrefix(r.Why+"; "+r.Trouble, "; ")
}

// Loaded returns the versions of the node's loaded drivers, separated by commas.
func (r NodeReport) Loaded() string {
	var loaded []string
	for _, vendor := range slices.Sorted(maps.Keys(r.Drivers)) {
		if v := r.Drivers[vendor].Loaded; v != "" {
			loaded = append(loaded, v)
		}
	}
	return strings.Join(loaded, ", ")
}

// Failed reports whether a node failed, so that the rollout stopped.
func (s Slots) Failed() bool {
	for _, h := range s.Holders {
		if h.Failed != "" {
			return true
		}
	}
	return false
}

// State describes the state of a rollout in a few words.
func (s Slots) State(w Wanted) string {
	for _, id := range slices.Sorted(maps.Keys(s.Holders)) {
		if h := s.Holders[id]; h.Failed != "" {
			return fmt.Sprintf("stopped: node %s failed", h.Node)
		}
	}
	if w.Paused {
		return "is paused"
	}
	return "runs"
}
