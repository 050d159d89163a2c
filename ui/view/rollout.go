package view

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/driver"
)

// Drivers are the documents of the driver rollout.
type Drivers struct {
	Wanted driver.Wanted
	Slots  driver.Slots
	Nodes  []driver.NodeReport
	// Problems are the errors of documents that cannot be decoded.
	Problems []string
}

// Rollout is the progress of the cluster's nodes towards the wanted drivers.
type Rollout struct {
	// State completes the sentence "the rollout …", for example "runs".
	State   string `json:"state"`
	Stopped bool   `json:"stopped"`
	// Open reports whether a node is being changed or needs attention.
	Open     bool           `json:"open"`
	Max      int            `json:"max"`
	Taken    int            `json:"taken"`
	Classes  []WantedDriver `json:"classes"`
	Nodes    []RolloutNode  `json:"nodes"`
	Problems []string       `json:"problems,omitempty"`
}

// WantedDriver is the wanted driver of a class of nodes.
type WantedDriver struct {
	Class   string   `json:"class"`
	Version string   `json:"version"`
	Modules string   `json:"modules,omitempty"`
	Canary  []string `json:"canary,omitempty"`
	// Nodes counts the nodes of the class with an agent, Have those of them with the version.
	Nodes int `json:"nodes"`
	Have  int `json:"have"`
}

// RolloutNode is one node of a rollout.
type RolloutNode struct {
	Node   string       `json:"node"`
	ID     string       `json:"id"`
	Class  string       `json:"class"`
	Phase  driver.Phase `json:"phase"`
	Why    string       `json:"why,omitempty"`
	Loaded string       `json:"loaded,omitempty"`
	Wanted string       `json:"wanted,omitempty"`
	// Slot reports whether the node holds a slot.
	Slot  bool      `json:"slot"`
	Since time.Time `json:"since"`
}

// RolloutOf returns the view of a rollout, nil if nothing is wanted and no node has an agent.
func RolloutOf(d Drivers) *Rollout {
	if len(d.Wanted.Classes)+len(d.Nodes)+len(d.Slots.Holders)+len(d.Problems) == 0 {
		return nil
	}
	out := &Rollout{
		State: d.Slots.State(d.Wanted), Stopped: d.Slots.Failed(), Max: d.Wanted.Max, Taken: len(d.Slots.Holders),
		Classes: []WantedDriver{}, Nodes: []RolloutNode{}, Problems: d.Problems,
	}
	reported := map[string]bool{}
	for _, r := range d.Nodes {
		reported[r.ID] = true
		_, slot := d.Slots.Holders[r.ID]
		out.Nodes = append(out.Nodes, RolloutNode{
			Node: r.Node, ID: r.ID, Class: r.Class, Phase: r.Phase, Why: r.Reason(), Loaded: r.Loaded(),
			Wanted: r.Wanted, Slot: slot, Since: r.Since,
		})
	}
	for id, h := range d.Slots.Holders { // holders without a report
		if !reported[id] {
			out.Nodes = append(out.Nodes, RolloutNode{
				Node: h.Node, ID: id, Class: h.Class, Why: cmp.Or(h.Failed, "no report"), Wanted: h.Version, Slot: true,
				Since: h.Since,
			})
		}
	}
	slices.SortFunc(out.Nodes, func(a, b RolloutNode) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), strings.Compare(a.Node, b.Node), strings.Compare(a.ID, b.ID))
	})
	out.Open = out.Stopped || len(d.Problems) > 0 ||
		slices.ContainsFunc(out.Nodes, func(n RolloutNode) bool { return n.order() < 3 })
	for _, class := range slices.Sorted(maps.Keys(d.Wanted.Classes)) {
		out.Classes = append(out.Classes, wantedOf(d, class))
	}
	return out
}

// order sorts nodes that need attention first.
func (n RolloutNode) order() int {
	switch {
	case n.Phase == driver.Failed:
		return 0
	case n.Slot || n.Phase.Begun():
		return 1
	case n.Phase == driver.Changing:
		return 2
	}
	return 3
}

func wantedOf(d Drivers, class string) WantedDriver {
	want := d.Wanted.Classes[class]
	out := WantedDriver{Class: class, Version: want.Version, Modules: string(want.Modules), Canary: want.Canary}
	for _, r := range d.Nodes {
		if _, named := d.Wanted.Classes[r.Class]; r.Class != class && (named || class != driver.Others) {
			continue
		}
		out.Nodes++
		for _, have := range r.Drivers {
			if have.Loaded == want.Version {
				out.Have++
				break
			}
		}
	}
	return out
}
