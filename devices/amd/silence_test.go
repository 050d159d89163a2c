package amd

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"aliquot.example/devices/plugin"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// rounds is the vendor's side of a plugin whose rounds a test makes itself.
type rounds struct {
	*vendor
	t   *testing.T
	log *logged
}

func roundsOn(t *testing.T, r *rack.AMD, library string) *rounds {
	t.Helper()
	t.Setenv("ALIQUOT_RACK_AMD", r.Path)
	lines := &logged{}
	log := lines.logger()
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
	return &rounds{v, t, lines}
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
		for range 2 { // every answer restarts the count
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

// A card that has never answered may be well, and its library what fails: it is
// withdrawn for what the kernel says of it alone.
func TestACardThatNeverAnsweredIsNotJudgedByTheLibrary(t *testing.T) {
	machine := newRack(t, rack.AMDHost(rack.MI210, 2, "", "")...)
	id := machine.GPUs()[0].PCI
	lose := func(lost bool) {
		t.Helper()
		if err := machine.EditGPU(id, func(g *rack.AMDGPU) { g.Lost = lost }); err != nil {
			t.Fatal(err)
		}
	}
	config := func(b ...byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(machine.Root, pciDir, id, "config"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := roundsOn(t, machine, built(t, "26.5"))
	if _, err := r.Inventory(t.Context()); err != nil { // the library is started and knows both
		t.Fatal(err)
	}
	lose(true)
	for range plugin.Patience + 1 {
		if _, problems := r.one(); len(problems) != 0 {
			t.Fatalf("a card that never answered: %v", problems)
		}
	}
	if n := r.log.count("WARN", "has never answered AMD SMI"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	config(0xff, 0xff, 0xff, 0xff)
	if _, problems := r.one(); len(problems) != 1 || !strings.Contains(problems[gpu.ID(id)], "fallen off the bus") {
		t.Errorf("off the bus: %v", problems)
	}
	config(0x02, 0x10, 0x0f, 0x74)
	lose(false)
	if _, problems := r.one(); len(problems) != 0 {
		t.Fatalf("after its first answer: %v", problems)
	}
	lose(true) // and now its silence counts
	var problems map[gpu.ID]string
	for range plugin.Patience {
		_, problems = r.one()
	}
	if !strings.Contains(problems[gpu.ID(id)], "does not answer AMD SMI") {
		t.Errorf("silent after an answer: %v", problems)
	}
}

// A card without the record that is asked for answers all the same.
func TestWhatCountsAsAnAnswer(t *testing.T) {
	c := card{PCI: pciAddress{Bus: 1}}
	for status, answers := range map[int32]bool{statusOK: true, 2: true, 3: true, 10: true, statusNoData: true, 7: false, 8: false, 12: false, 43: false} {
		s := &smi{sym: &symbols{ASIC: func(handle, *byte) int32 { return status }}, handles: map[pciAddress]handle{c.PCI: 1}}
		if asked, err := s.answers(c); !asked || (err == nil) != answers {
			t.Errorf("status %d: asked %v, %v", status, asked, err)
		}
		if asked, _ := s.answers(card{}); asked {
			t.Error("a card that the library does not know was asked")
		}
	}
}
