package driver

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

// until runs the only node until it is in a phase.
func (w *world) until(t *testing.T, p Phase) *machine {
	t.Helper()
	m := w.nodes[0]
	for range 500 {
		if m.state.Phase == p {
			return m
		}
		if w.step(m, false, false, nil) == Wait {
			w.move()
		}
	}
	t.Fatalf("it never came to %s: %+v\n%s", p, m.state, strings.Join(w.log, "\n"))
	return nil
}

// begun are the phases that a node with a slot may be in.
var begun = []Phase{InSlot, Draining, Idle, Installing, Reloading, Rebooting, Verifying}

// before brings a node into a phase of a change.
func before(t *testing.T, n, most int, p Phase) (*world, *machine) {
	w := newWorld(n, most)
	if p == Rebooting {
		w.until(t, Idle).state.Plan.Apply = Reboot
	}
	return w, w.until(t, p)
}

// A node whose slot is freed before the installation gives up unharmed, and one behind it
// takes its slot again, so that no second node is changed beside it.
func TestFreeingASlotDuringAChange(t *testing.T) {
	for _, p := range begun {
		w, m := before(t, 2, 1, p)
		m.marked = p == Idle
		m.state.Released = m.marked
		w.wanted.Paused = true // nobody takes the slot that is free
		w.slots = w.slots.Reset(m.id)
		from := len(w.log)
		w.settle(t)
		log := strings.Join(w.log[from:], "\n")
		if !m.node.Eligible || m.node.Draining || m.marked || m.state.Phase != Current && m.state.Phase != Changing || len(w.slots.Holders) > 0 {
			t.Errorf("%s: %+v, %+v, %+v\n%s", p, m.state, m.node, w.slots, log)
		}
		if early := p.early(); early != (m.loaded() == "535.261.03") || early == strings.Contains(log, string(KeepSlot)) {
			t.Errorf("%s: loaded %s\n%s", p, m.loaded(), log)
		}
	}
}

// A slot that cannot be taken back is asked for again later, and does not stop the change.
func TestASlotThatCannotBeKeptIsAskedForAgain(t *testing.T) {
	w, m := before(t, 1, 1, Installing)
	w.slots = w.slots.Reset(m.id)
	if verb := w.step(m, false, false, errors.New("permission denied")); verb != KeepSlot || m.state.Trouble != "" || m.state.RollingBack {
		t.Fatalf("%s, %+v", verb, m.state)
	}
	if verb := w.step(m, false, false, nil); verb != Install {
		t.Errorf("%s: %+v", verb, m.state)
	}
	w.now = w.now.Add(retryAfter)
	if verb := w.step(m, false, false, nil); verb != KeepSlot || len(w.slots.Holders) != 1 {
		t.Errorf("%s: %+v", verb, w.slots)
	}
}

// A node that somebody else drains during the change, in any phase, takes no tasks
// afterwards before they make it eligible; its slot is given back.
func TestDrainsOfOthersInEveryPhase(t *testing.T) {
	for _, p := range begun {
		w, m := before(t, 1, 1, p)
		m.node.Draining, m.node.Ours, m.node.Drained, m.node.Ended, m.node.Eligible = true, false, false, false, false
		w.settle(t)
		if m.node.Eligible || !m.node.Drained || m.node.Ours {
			t.Errorf("%s: %+v, %+v\n%s", p, m.node, m.state, strings.Join(w.log, "\n"))
		}
		if p.late() && (m.state.Phase != Current || len(w.slots.Holders) > 0 || m.loaded() != "535.309.01") {
			t.Errorf("%s: %+v, %+v", p, m.state, w.slots)
		}
		if p.early() && (!strings.Contains(m.state.Why, "somebody else drained the node") || m.loaded() != "535.261.03") {
			t.Errorf("%s: loaded %s, %+v", p, m.loaded(), m.state)
		}
		m.node.Eligible, m.node.Drained = true, false // they are done
		w.settle(t)
		if !m.node.Eligible || m.loaded() != "535.309.01" || m.state.Phase != Current || len(w.slots.Holders) > 0 {
			t.Errorf("%s, after their drain: %+v, %+v\n%s", p, m.node, m.state, strings.Join(w.log, "\n"))
		}
	}
}

// A node that somebody makes eligible behind its drain is drained again.
func TestANodeThatIsMadeEligibleIsDrainedAgain(t *testing.T) {
	w, m := before(t, 1, 1, Draining)
	for m.state.LastDone != Drain {
		w.step(m, false, false, nil)
	}
	m.node.Draining, m.node.Drained, m.node.Eligible, m.tasks = false, false, true, 2
	w.settle(t)
	if m.loaded() != "535.309.01" || m.state.Phase != Current || !m.node.Eligible {
		t.Errorf("%+v, %+v", m.state, m.node)
	}
}

// A node without a healthy GPU is never found well, whatever it had before.
func TestVerificationWantsHealthyGPUs(t *testing.T) {
	for name, c := range map[string]struct {
		had, gpus int
		lost      bool
		offered   int
		well      bool
	}{
		"none before, none now":            {0, 2, false, 0, false},
		"none before, one now":             {0, 2, false, 1, false},
		"none before, all now":             {0, 2, false, 2, true},
		"fewer before than the host has":   {1, 2, false, 1, true},
		"a GPU was lost":                   {2, 1, false, 1, false},
		"not known before, one now":        {0, 2, true, 1, false},
		"not known before, all now":        {0, 2, true, 2, true},
		"the host names none, none now":    {0, 0, false, 0, false},
		"the host names none, one offered": {0, 0, false, 1, true},
	} {
		w := newWorld(1, 1)
		v := w.seen(w.nodes[0])
		v.Facts.GPUs = slices.Repeat(v.Facts.GPUs[:1], c.gpus)
		v.Offered.GPUs = c.offered
		s := State{Phase: Verifying, FromVersion: "535.161.07", HealthyBefore: c.had, Lost: c.lost, Plan: Plan{Vendor: gpu.NVIDIA, Version: "535.261.03"}}
		if problem := s.problem(v); (problem == "") != c.well {
			t.Errorf("%s: %q", name, problem)
		}
	}
	// The walk as a whole: nothing was offered before, and nothing is afterwards.
	w := newWorld(1, 1)
	w.nodes[0].gpus = 0
	w.settle(t)
	if m := w.nodes[0]; m.node.Eligible || m.state.Phase != Failed {
		t.Errorf("%+v, %+v", m.node, m.state)
	}
}

// A canary that has the wanted version already is done if it is well, and does not stop
// the others; one that is not well does.
func TestACanaryThatHasTheVersion(t *testing.T) {
	for _, well := range []bool{true, false} {
		w := newWorld(2, 1)
		with(&w.nodes[0].facts, func(d *Installed) { d.Loaded, d.OnDisk, d.Library = "535.309.01", "535.309.01", "535.309.01" })
		w.nodes[0].facts.Packages = slices.Clone(w.nodes[0].facts.Packages)
		for i, p := range w.nodes[0].facts.Packages {
			if p.Name != "nvidia-persistenced" {
				w.nodes[0].facts.Packages[i].Version = "535.309.01-1~deb12u1"
			}
		}
		w.nodes[0].broken["535.309.01"] = !well
		want := upgrade
		want.Canary = []string{"n0"}
		w.wanted.Classes[Others] = want
		w.settle(t)
		if done := w.nodes[1].loaded() == "535.309.01"; done != well {
			t.Errorf("canary well %v: %+v\n%+v\n%+v", well, w.nodes[0].state, w.nodes[1].state, w.slots)
		}
		if !well && !strings.Contains(w.nodes[0].state.Why, "this canary is not verified yet: ") {
			t.Errorf("%+v", w.nodes[0].state)
		}
	}
}

// Documents that cannot be understood let no node begin, and stop no node that has.
func TestGarbageStopsNoChangeThatHasBegun(t *testing.T) {
	seen := func(w *world, m *machine) Seen {
		v := w.seen(m)
		v.Wanted, v.Slots, v.Trouble, v.NoSlots = Wanted{}, Slots{}, "a document in Consul is invalid", true
		return v
	}
	w := newWorld(1, 1)
	if s, verb := Step(w.nodes[0].state, seen(w, w.nodes[0])); verb != Wait || !strings.HasPrefix(s.Why, "not starting a change: a document") {
		t.Errorf("%s, %+v", verb, s)
	}
	for _, p := range begun {
		w, m := before(t, 1, 1, p)
		for range 500 {
			s, verb := Step(m.state, seen(w, m))
			m.state = s
			var err error
			switch verb {
			case Wait:
				w.move()
				continue
			case GiveSlot:
				err = errors.New("a document in Consul is invalid")
			default:
				err = w.act(m, verb, w.seen(m))
			}
			m.state = m.state.After(verb, err, w.now)
		}
		if m.loaded() != "535.309.01" || !m.node.Eligible || !m.state.ReleasingSlot || m.state.Phase != Verifying {
			t.Errorf("%s: %+v, %+v", p, m.state, m.node)
		}
		w.slots = Slots{} // they are reset
		w.settle(t)
		if m.state.Phase != Current || len(w.slots.Holders) > 0 {
			t.Errorf("%s, after a reset: %+v, %+v", p, m.state, w.slots)
		}
	}
}

// Whatever operators do meanwhile: a node that they drain is not made eligible by the
// agent, one that takes tasks has a driver that works, and every node comes to an end.
func TestRolloutsAmongOperators(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "nodes")
		w := newWorld(n, rapid.IntRange(1, 2).Draw(t, "max"))
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			m := w.nodes[rapid.IntRange(0, n-1).Draw(t, "node")]
			switch rapid.IntRange(0, 29).Draw(t, "operator") {
			case 0:
				m.node.Draining, m.node.Ours, m.node.Drained, m.node.Ended, m.node.Eligible = true, false, false, false, false
			case 1:
				if !m.node.Draining && m.state.Phase.early() {
					m.node.Eligible, m.node.Drained, m.tasks = true, false, 2
				}
			case 2:
				w.slots = w.slots.Reset(m.id)
			}
			crash := rapid.IntRange(0, 9).Draw(t, "crash")
			was := m.node
			verb := w.step(m, crash == 0, crash == 1, nil)
			if was.others() && m.node.Eligible {
				t.Fatalf("%s was drained by somebody else, and %s made it eligible", m.id, verb)
			}
			if rapid.Bool().Draw(t, "time") {
				w.move()
			}
		}
		w.settle(t)
		for _, m := range w.nodes {
			if m.node.others() { // they are done
				m.node.Draining, m.node.Drained, m.node.Eligible = false, false, true
			}
		}
		w.settle(t)
		for _, m := range w.nodes {
			d := m.facts.Drivers[gpu.NVIDIA]
			if m.node.Eligible && (d.Loaded != d.Library || m.marked) {
				t.Fatalf("%s takes tasks with %+v: %+v", m.id, d, m.state)
			}
			if m.state.Phase == Current && (d.Loaded != "535.309.01" || !m.node.Eligible) || m.state.Phase != Current && m.state.Phase != Failed && len(w.slots.Holders) == 0 {
				t.Fatalf("%s: %+v, %+v, %+v", m.id, m.state, m.node, w.slots)
			}
		}
	})
}
