package amd

import (
	"reflect"
	"strings"
	"testing"

	"aliquot/devices/plugin"
	"aliquot/e2e/rack"
	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

// rounds is the vendor's side of a plugin whose rounds a test makes itself.
type rounds struct {
	*vendor
	t *testing.T
}

func roundsOn(t *testing.T, r *rack.AMD, library string) *rounds {
	t.Helper()
	t.Setenv("ALIQUOT_RACK_AMD", r.Path)
	log := (&logged{}).logger()
	cfg, err := Maker().Config(map[string]any{"root": r.Root, "run_dir": t.TempDir(), "library": library})
	if err != nil {
		t.Fatal(err)
	}
	made, err := newVendor(cfg, plugin.Host{Log: log, Wake: func() {}, Numbers: plugin.NewNumbers(cfg.RunDir, gpu.AMD, log)})
	if err != nil {
		t.Fatal(err)
	}
	v := made.(*vendor)
	t.Cleanup(v.lib.stop)
	return &rounds{v, t}
}

// one makes a round and returns what was found and each card's problem.
func (r *rounds) one() ([]share.Found, map[gpu.ID]string) {
	r.t.Helper()
	found, err := r.Inventory(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	problems := map[gpu.ID]string{}
	for id, state := range r.Converge(r.t.Context(), share.NewPlan(found, r.cfg.Rules)) {
		if state.Problem != "" {
			problems[id] = state.Problem
		}
	}
	return found, problems
}

// A question that stays unanswered now and then takes no slices away and changes
// nothing of what is offered; a card that stays silent is withdrawn, and is back
// with its first answer.
func TestOneUnansweredQuestionIsNoFault(t *testing.T) {
	onEveryRelease(t, func(t *testing.T, _, path string) {
		// The kernel knows no name of this card: the library's is in the group's name.
		model := rack.MI210
		model.Name, model.Device = "AMD Instinct MI999", 0x7fff
		machine := newRack(t, rack.AMDHost(model, 2, "", "")...)
		r := roundsOn(t, machine, path)
		first, other := machine.GPUs()[0].PCI, gpu.ID(machine.GPUs()[1].PCI)
		lose := func(lost bool) {
			t.Helper()
			if err := machine.EditGPU(first, func(g *rack.AMDGPU) { g.Lost = lost }); err != nil {
				t.Fatal(err)
			}
		}
		before, problems := r.one()
		if len(problems) != 0 {
			t.Fatalf("well cards: %v", problems)
		}
		for range 2 { // the count begins anew with every answer
			lose(true)
			for n := range plugin.Patience - 1 {
				found, problems := r.one()
				if len(problems) != 0 || !reflect.DeepEqual(found, before) {
					t.Fatalf("after %d unanswered questions: %v, and\n%+v\nwas\n%+v", n+1, problems, found, before)
				}
				r.Usage(t.Context(), share.NewPlan(found, r.cfg.Rules)) // statistics are no round
			}
			lose(false)
			if _, problems := r.one(); len(problems) != 0 {
				t.Fatalf("after an answer: %v", problems)
			}
		}
		lose(true)
		for range plugin.Patience {
			_, problems = r.one()
		}
		if len(problems) != 1 || problems[other] != "" || !strings.Contains(problems[gpu.ID(first)], "does not answer AMD SMI") {
			t.Fatalf("a silent card: %v", problems)
		}
		lose(false)
		if _, problems = r.one(); len(problems) != 0 {
			t.Errorf("back: %v", problems)
		}
	})
}

// A card that has never answered has no credit.
func TestACardThatNeverAnsweredIsWithdrawnAtOnce(t *testing.T) {
	machine := newRack(t, rack.AMDHost(rack.MI210, 2, "", "")...)
	r := roundsOn(t, machine, built(t, "26.5"))
	if _, err := r.Inventory(t.Context()); err != nil { // the library is started and knows both
		t.Fatal(err)
	}
	id := machine.GPUs()[0].PCI
	if err := machine.EditGPU(id, func(g *rack.AMDGPU) { g.Lost = true }); err != nil {
		t.Fatal(err)
	}
	if _, problems := r.one(); len(problems) != 1 || problems[gpu.ID(id)] == "" {
		t.Errorf("got %v", problems)
	}
}
