package driver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
)

// Wanted is the document in which an operator sets the drivers of the cluster's nodes.
type Wanted struct {
	// Max is the maximum number of nodes that change at the same time, at least 1.
	Max int `json:"max"`
	// Paused prevents further nodes from starting. A node that has started completes its change,
	// because half a driver is of no use.
	Paused bool `json:"paused,omitempty"`
	// Classes has the wanted driver by Nomad's node class; Others stands for all classes that are not
	// listed.
	Classes map[string]Want `json:"classes"`
}

// Others is the key in Wanted.Classes for nodes of all classes that are not listed.
const Others = "*"

// ParseWanted reads the document. It refuses unknown keys and values, because programs that run as
// root follow it.
func ParseWanted(text []byte) (Wanted, error) {
	w := Wanted{Max: 1}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return Wanted{}, fmt.Errorf("it is not a JSON document of wanted drivers: %w", err)
	}
	if d.More() {
		return Wanted{}, fmt.Errorf("there is text after the JSON document: remove it")
	}
	if w.Max < 1 {
		return Wanted{}, fmt.Errorf("max is %d: want at least 1", w.Max)
	}
	for _, class := range slices.Sorted(maps.Keys(w.Classes)) {
		if why := w.Classes[class].wrong(); why != "" {
			return Wanted{}, fmt.Errorf("class %q: %s", class, why)
		}
	}
	return w, nil
}

func (w Want) wrong() string {
	m, known := MakerOf(w.Vendor)
	switch {
	case !ValidVersion(w.Version):
		return fmt.Sprintf("version is %q: want the whole version of a driver, such as 580.126.09", w.Version)
	case w.Vendor != "" && !known:
		return fmt.Sprintf("vendor is %q: want one of %s", w.Vendor, join(makers()))
	case w.Modules != "" && w.Modules != Open && w.Modules != Closed:
		return fmt.Sprintf("modules is %q: want %q or %q", w.Modules, Open, Closed)
	case w.Modules != "" && known && m.About == "":
		return fmt.Sprintf("modules is %q, but %s's driver has only one kind: remove modules", w.Modules, m.name())
	}
	if d, err := time.ParseDuration(w.DrainDeadline); w.DrainDeadline != "" && (err != nil || d <= 0) {
		return fmt.Sprintf("drain_deadline is %q: want a duration, such as 1h", w.DrainDeadline)
	}
	return ""
}

func makers() (out []gpu.Vendor) {
	for _, m := range Makers() {
		out = append(out, m.Vendor)
	}
	return out
}

// For returns the wanted driver of a class of nodes, nil if there is none.
func (w Wanted) For(class string) *Want {
	if want, ok := w.Classes[class]; ok {
		return &want
	}
	if want, ok := w.Classes[Others]; ok {
		return &want
	}
	return nil
}

// Slots is the document with which nodes take turns. A node holds its slot until it is verified or
// an operator frees the slot. Slots do not expire, because a node that reboots cannot renew one.
type Slots struct {
	// Holders are the nodes that are being changed, or that failed, by node ID.
	Holders map[string]Holder `json:"holders"`
	// Done are the nodes that have completed a change, with their versions.
	Done map[string]Holder `json:"done"`
}

// Holder is a node that has a slot, or had one.
type Holder struct {
	Node    string     `json:"node"`
	Class   string     `json:"class"`
	Vendor  gpu.Vendor `json:"vendor"`
	Version string     `json:"version"`
	// Eligible is set if the node was eligible before the change.
	Eligible bool      `json:"eligible"`
	Since    time.Time `json:"since"`
	// Failed is why the node stopped, "" if it has not.
	Failed string `json:"failed,omitempty"`
}

// ParseSlots reads the document. An empty text means no holders.
func ParseSlots(text []byte) (Slots, error) {
	var s Slots
	if len(text) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("it is not a JSON document of slots: %w", err)
	}
	return s, nil
}

// May returns why a node may not take a slot, or "" if it may.
func (s Slots) May(id string, h Holder, w Wanted, want Want) string {
	if _, has := s.Holders[id]; has {
		return ""
	}
	if w.Paused {
		return "the rollout is paused"
	}
	for _, other := range s.sorted() {
		if other.Failed != "" {
			return fmt.Sprintf("the rollout stopped: node %s failed: %s", other.Node, other.Failed)
		}
	}
	if len(s.Holders) >= w.Max {
		return fmt.Sprintf("%d of %d slots are taken, by %s", len(s.Holders), w.Max, strings.Join(s.names(), ", "))
	}
	return s.first(h, want)
}

// first returns why a node must wait for a canary or for the first node, or "".
func (s Slots) first(h Holder, want Want) string {
	same := func(o Holder) bool { return o.Class == h.Class && o.Version == h.Version && o.Vendor == h.Vendor }
	done := map[string]bool{}
	for _, o := range s.Done {
		if same(o) {
			done[o.Node] = true
		}
	}
	if len(want.Canary) > 0 {
		for _, name := range want.Canary {
			if !done[name] && !slices.Contains(want.Canary, h.Node) {
				return "canary " + name + " has not completed its change"
			}
		}
		return ""
	}
	for _, o := range s.sorted() {
		if same(o) && len(done) == 0 {
			return "node " + o.Node + " changes first and has not completed its change"
		}
	}
	return ""
}

// waitFor reports whether others wait for a canary to be done.
func (s Slots) waitFor(h Holder, want Want, id string) bool {
	o, done := s.Done[id]
	return slices.Contains(want.Canary, h.Node) && !(done && o.Class == h.Class && o.Version == h.Version &&
		o.Vendor == h.Vendor)
}

// Mark returns the slots with a node marked as done that already has the version, without a slot.
func (s Slots) Mark(id string, h Holder) Slots {
	s = s.clone()
	s.Done[id] = h
	return s
}

func (s Slots) sorted() []Holder {
	var out []Holder
	for _, id := range slices.Sorted(maps.Keys(s.Holders)) {
		out = append(out, s.Holders[id])
	}
	return out
}

func (s Slots) names() (out []string) {
	for _, h := range s.sorted() {
		out = append(out, h.Node)
	}
	return out
}

// Take returns the slots with a further holder.
func (s Slots) Take(id string, h Holder) Slots {
	s = s.clone()
	s.Holders[id] = h
	delete(s.Done, id)
	return s
}

// Give returns the slots after a node has been verified with its version.
func (s Slots) Give(id string, now time.Time) Slots {
	s = s.clone()
	if h, has := s.Holders[id]; has {
		h.Since = now
		s.Done[id] = h
	}
	delete(s.Holders, id)
	return s
}

// Fail returns the slots after a node failed. It keeps its slot, so that the rollout
// stops.
func (s Slots) Fail(id string, h Holder, why string) Slots {
	s = s.clone()
	if had, has := s.Holders[id]; has {
		h = had
	}
	h.Failed = why
	s.Holders[id] = h
	return s
}

// Reset returns the slots after an operator has freed a node's slot.
func (s Slots) Reset(id string) Slots {
	s = s.clone()
	delete(s.Holders, id)
	return s
}

func (s Slots) clone() Slots {
	out := Slots{Holders: map[string]Holder{}, Done: map[string]Holder{}}
	maps.Copy(out.Holders, s.Holders)
	maps.Copy(out.Done, s.Done)
	return out
}
