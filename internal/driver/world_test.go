package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

// machine is a host as a test plays it: what the agent's actions do to it, and no more.
type machine struct {
	id     string
	facts  Facts
	node   Node
	gpus   int
	state  State
	broken map[string]bool // versions whose module does not work
	boots  []string        // versions on disk at each reboot
	marked bool
	tasks  int
}

// world is a cluster as tests play it.
type world struct {
	now    time.Time
	wanted Wanted
	slots  Slots
	nodes  []*machine
	most   int // most holders seen at once
	log    []string
}

func newWorld(n int, max int) *world {
	w := &world{now: time.Unix(1e9, 0), wanted: Wanted{Max: max, Classes: map[string]Want{Others: upgrade}}}
	for i := range n {
		m := &machine{id: fmt.Sprintf("n%d", i), facts: debian(), gpus: 1, tasks: 2, broken: map[string]bool{}}
		m.node = Node{Ready: true, Eligible: true}
		m.state = State{Phase: Current}
		w.nodes = append(w.nodes, m)
	}
	return w
}

func (w *world) seen(m *machine) Seen {
	d := m.facts.Drivers[gpu.NVIDIA]
	o := Offered{GPUs: m.gpus, Versions: []string{d.Loaded}}
	if d.Loaded != d.Library || m.broken[d.Loaded] || m.marked {
		o.GPUs, o.Sick = 0, []string{"the driver does not answer"}
	}
	v := Seen{Now: w.now, Facts: m.facts, Wanted: w.wanted, ID: m.id, Name: m.id, Slots: w.slots, Node: m.node, Offered: o}
	for i := range m.tasks {
		if m.node.Draining {
			v.Node.Left = append(v.Node.Left, fmt.Sprintf("task %d", i))
		}
	}
	return v
}

// step lets one node decide and act once. A crash loses what was not kept: before is one
// that comes before the action, after one that comes behind it.
func (w *world) step(m *machine, before, after bool, fault error) Verb {
	v := w.seen(m)
	s, verb := Step(m.state, v)
	m.state = s
	if verb == Wait || verb == Again {
		return verb
	}
	w.log = append(w.log, fmt.Sprintf("%s %s %s", m.id, s.Phase, verb))
	if before {
		m.state = m.state.Restarted(w.now)
		return verb
	}
	err := fault
	if err == nil {
		err = w.act(m, verb, v)
	}
	w.most = max(w.most, len(w.slots.Holders))
	if after {
		m.state = m.state.Restarted(w.now)
		return verb
	}
	m.state = m.state.After(verb, err, w.now)
	return verb
}

func (w *world) act(m *machine, verb Verb, v Seen) error {
	d := m.facts.Drivers[gpu.NVIDIA]
	s := m.state
	switch verb {
	case TakeSlot:
		if w.slots.May(m.id, s.Holder(v), w.wanted, s.Want) == "" {
			w.slots = w.slots.Take(m.id, s.Holder(v))
		}
	case GiveSlot:
		w.slots = w.slots.Give(m.id, w.now)
	case Report:
		w.slots = w.slots.Fail(m.id, s.Holder(v), s.Why)
	case KeepSlot:
		w.slots = w.slots.Take(m.id, s.Holder(v))
	case MarkDone:
		w.slots = w.slots.Mark(m.id, s.Holder(v))
	case EndDrain:
		m.node.Draining, m.node.Ended, m.node.Eligible = false, true, s.Eligible
	case Drain:
		m.node.Draining, m.node.Ours, m.node.Drained, m.node.Ended, m.node.Eligible = true, true, false, false, false
	case Admit:
		m.node.Eligible, m.node.Drained = true, false
	case Release:
		m.marked = true
	case Resume:
		m.marked = false
	case Install, Restore:
		target := s.Plan.Install
		if verb == Restore {
			target = s.From
		}
		for _, p := range target {
			m.facts.Packages = slices.DeleteFunc(slices.Clone(m.facts.Packages), func(h Package) bool { return h.Name == p.Name })
			m.facts.Packages = append(m.facts.Packages, Package{Name: p.Name, Version: p.Version})
			if p.Name == "nvidia-kernel-dkms" {
				d.OnDisk = Upstream(p.Version)
			}
			if p.Name == "libnvidia-ml1" {
				d.Library = Upstream(p.Version)
			}
		}
	case Hold:
		for i := range m.facts.Packages {
			m.facts.Packages[i].Held = true
		}
	case LoadModule:
		d.Loaded = d.OnDisk
	case BootAgain:
		m.boots = append(m.boots, d.OnDisk)
		d.Loaded = d.OnDisk
		m.facts.BootID += "+"
		m.marked = false
	}
	m.facts.Drivers = map[gpu.Vendor]Installed{gpu.NVIDIA: d}
	return nil
}

// move plays the other programs of the cluster: tasks leave a node that drains.
func (w *world) move() {
	for _, m := range w.nodes {
		if m.node.Draining && m.tasks > 0 {
			m.tasks--
		}
		if m.node.Draining && m.tasks == 0 {
			m.node.Draining, m.node.Drained = false, true
		}
		if m.node.Eligible {
			m.tasks = 2
		}
	}
	w.now = w.now.Add(5 * time.Second)
}

// settle runs all nodes in turn until nobody does anything any more.
func (w *world) settle(t interface {
	Fatalf(string, ...any)
	Helper()
}) {
	t.Helper()
	quiet := 0
	for range 5000 {
		busy := false
		for _, m := range w.nodes {
			for range 10 {
				if w.step(m, false, false, nil) == Wait {
					break
				}
				busy = true
			}
		}
		w.move()
		if quiet++; busy {
			quiet = 0
		}
		if quiet > 200 { // longer than any limit of the steps
			return
		}
	}
	t.Fatalf("no end: %v", w.log[max(0, len(w.log)-30):])
}

func (m *machine) loaded() string { return m.facts.Drivers[gpu.NVIDIA].Loaded }

// Three nodes come to the wanted version, one after another, and all take tasks again.
func TestRollout(t *testing.T) {
	w := newWorld(3, 1)
	w.settle(t)
	for _, m := range w.nodes {
		if m.loaded() != "535.309.01" || !m.node.Eligible || m.state.Phase != Current || len(unheld(m.facts, gpu.NVIDIA)) > 0 || m.marked {
			t.Errorf("%s: %+v, loaded %s, eligible %v", m.id, m.state, m.loaded(), m.node.Eligible)
		}
	}
	if len(w.slots.Holders) != 0 || len(w.slots.Done) != 3 || w.most != 1 {
		t.Errorf("%+v, at most %d at once", w.slots, w.most)
	}
	if t.Failed() {
		t.Log(strings.Join(w.log, "\n"))
	}
}

// A version that does not work stops at the first node, which goes back to what it had
// and serves again; all others stay as they were.
func TestABadVersionStopsAtTheFirstNode(t *testing.T) {
	w := newWorld(4, 3)
	for _, m := range w.nodes {
		m.broken["535.309.01"] = true
	}
	w.settle(t)
	failed := 0
	for _, m := range w.nodes {
		if m.loaded() != "535.261.03" || !m.node.Eligible {
			t.Errorf("%s has %s, eligible %v: %+v", m.id, m.loaded(), m.node.Eligible, m.state)
		}
		if m.state.Phase == Failed {
			failed++
		}
	}
	if failed != 1 || len(w.slots.Holders) != 1 || w.most != 1 {
		t.Errorf("%d failed, %+v, at most %d at once", failed, w.slots, w.most)
	}
	for _, h := range w.slots.Holders {
		if !strings.Contains(h.Failed, "the former version 535.261.03 was installed again and works") {
			t.Errorf("%q", h.Failed)
		}
		w.slots = w.slots.Reset("n0") // whoever freed it by hand
	}
	for _, m := range w.nodes {
		m.broken = map[string]bool{}
	}
	w.settle(t)
	for _, m := range w.nodes {
		if m.loaded() != "535.309.01" {
			t.Errorf("%s was not tried again: %+v", m.id, m.state)
		}
	}
}

// Whatever fails and whenever the agents end: no more than max nodes are changed at once,
// none is rebooted twice for a version, and a node that takes tasks has a driver that
// works, with its packages held. Nobody gets a slot but by asking, nobody loses one but
// by being well.
func TestRolloutsHoldTheirRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, most := rapid.IntRange(1, 4).Draw(t, "nodes"), rapid.IntRange(1, 3).Draw(t, "max")
		w := newWorld(n, most)
		for _, m := range w.nodes {
			m.broken["535.309.01"] = rapid.Bool().Draw(t, "broken")
			m.node.Eligible = rapid.IntRange(0, 5).Draw(t, "ineligible before") > 0
			if rapid.Bool().Draw(t, "reboot") {
				m.facts.Uses = map[string]int{"nvidia": 1}
			}
		}
		was := map[string]bool{}
		for _, m := range w.nodes {
			was[m.id] = m.node.Eligible
		}
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			m := w.nodes[rapid.IntRange(0, n-1).Draw(t, "node")]
			holders := w.slots
			var fault error
			if rapid.IntRange(0, 9).Draw(t, "fault") == 0 {
				fault = errors.New("the disk is full")
			}
			crash := rapid.IntRange(0, 9).Draw(t, "crash")
			verb := w.step(m, crash == 0, crash == 1, fault)
			for id := range holders.Holders {
				if _, still := w.slots.Holders[id]; !still && (id != m.id || verb != GiveSlot) {
					t.Fatalf("%s lost its slot by %s of %s", id, verb, m.id)
				}
			}
			if rapid.Bool().Draw(t, "time") {
				w.move()
			}
			if len(w.slots.Holders) > most {
				t.Fatalf("%d slots of %d", len(w.slots.Holders), most)
			}
		}
		w.settle(t)
		for _, m := range w.nodes {
			if len(slices.Compact(slices.Sorted(slices.Values(m.boots)))) != len(m.boots) {
				t.Fatalf("%s was rebooted twice for one version: %v", m.id, m.boots)
			}
			d := m.facts.Drivers[gpu.NVIDIA]
			if m.node.Eligible && (d.Loaded != d.Library || m.broken[d.Loaded] || m.marked) {
				t.Fatalf("%s takes tasks with %+v: %+v", m.id, d, m.state)
			}
			if m.node.Eligible && !was[m.id] {
				t.Fatalf("%s takes tasks and did not before", m.id)
			}
			if m.state.Phase == Current && (d.Loaded != "535.309.01" || was[m.id] != m.node.Eligible) && len(w.slots.Holders) == 0 {
				t.Fatalf("%s is done with %+v, eligible %v: %+v", m.id, d, m.node.Eligible, m.state)
			}
		}
	})
}

// An agent that ends right before or right after any action of the walk, once, comes to
// the same end.
func TestAnEndAtEveryStep(t *testing.T) {
	for _, apply := range []Apply{Reload, Reboot} {
		whole := walk(t, apply, -1, false, false)
		if whole.nodes[0].loaded() != "535.309.01" {
			t.Fatalf("%v", whole.log)
		}
		for at := range whole.log {
			for _, after := range []bool{false, true} {
				w := walk(t, apply, at, !after, after)
				m := w.nodes[0]
				if m.loaded() != "535.309.01" || !m.node.Eligible || m.state.Phase != Current || len(w.slots.Holders) > 0 || len(m.boots) > 1 {
					t.Errorf("%s, ended at %q (after %v): %+v, loaded %s, booted %v\n%s", apply, whole.log[at], after, m.state, m.loaded(), m.boots, strings.Join(w.log, "\n"))
				}
			}
		}
	}
}

// A node that loses the agent's state at any moment never takes tasks with a driver that
// does not work, and comes to the end by itself where the driver is whole.
func TestALostState(t *testing.T) {
	steps := len(walk(t, Reload, -1, false, false).log)
	for at := range steps {
		w := newWorld(1, 1)
		m := w.nodes[0]
		for range 500 {
			if len(w.log) == at+1 {
				m.state = State{}
				w.log = append(w.log, "the state is lost")
			}
			if w.step(m, false, false, nil) == Wait {
				w.move()
			}
			d := m.facts.Drivers[gpu.NVIDIA]
			if m.node.Eligible && (d.Loaded != d.Library || d.Loaded != d.OnDisk) {
				t.Fatalf("it takes tasks with %+v\n%s", d, strings.Join(w.log, "\n"))
			}
		}
		if m.loaded() != "535.309.01" || m.state.Phase != Current || len(w.slots.Holders) > 0 || m.marked {
			t.Errorf("lost behind step %d: %+v, loaded %s, %+v\n%s", at, m.state, m.loaded(), w.slots, strings.Join(w.log, "\n"))
		}
	}
}

// walk brings one node to the newer driver; the agent ends at the action of a number.
func walk(t *testing.T, apply Apply, at int, before, after bool) *world {
	w := newWorld(1, 1)
	m := w.nodes[0]
	for range 500 {
		if apply == Reboot && m.state.Phase == Idle {
			m.state.Plan.Apply = Reboot
		}
		here := len(w.log) == at
		if w.step(m, here && before, here && after, nil) == Wait {
			w.move()
		}
	}
	return w
}
