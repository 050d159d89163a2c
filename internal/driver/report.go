package driver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
)

// RolloutPrefix is that of the documents of rollouts in Consul KV, where nobody says another.
const RolloutPrefix = "aliquot/node"

// NodeReport says how a node is, in the document that its agent writes.
type NodeReport struct {
	Node  string `json:"node"`
	ID    string `json:"id"`
	Class string `json:"class,omitempty"`
	Phase Phase  `json:"phase"`
	// Why says what it waits for, or why it failed.
	Why string `json:"why,omitempty"`
	// Trouble says which document in Consul the node does not understand.
	Trouble string `json:"trouble,omitempty"`
	// Wanted is the version on the way to which it is; Drivers are what is there.
	Wanted  string                   `json:"wanted,omitempty"`
	Drivers map[gpu.Vendor]Installed `json:"drivers,omitempty"`
	GPUs    int                      `json:"gpus"`
	// Since is when the phase began.
	Since time.Time `json:"since"`
}

// Reason says what the node waits for, or why it failed, and what it does not understand.
func (r NodeReport) Reason() string {
	if r.Trouble == "" || strings.Contains(r.Why, r.Trouble) {
		return r.Why
	}
	return strings.TrimPrefix(r.Why+"; "+r.Trouble, "; ")
}

// Loaded are the versions of the drivers that the node has loaded.
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

// State says in a few words how a rollout is.
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
