package intel

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

type rig struct {
	*vendor
	rack *rack.Intel
}

func newRig(t *testing.T, gpus ...rack.IntelGPU) rig {
	t.Helper()
	r, err := rack.NewIntel(t.TempDir(), gpus...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := Maker().Config(map[string]any{"root": r.Root, "run_dir": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	log := hclog.NewNullLogger()
	made, err := newVendor(config, plugin.Host{Log: log, Wake: func() {}, Numbers: plugin.NewNumbers(config.RunDir, gpu.Intel, log)})
	if err != nil {
		t.Fatal(err)
	}
	return rig{made.(*vendor), r}
}

func (r rig) plan(t *testing.T, mode share.Mode) share.Plan {
	t.Helper()
	found, err := r.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return share.NewPlan(found, []share.Rule{{Selector: share.Any, Mode: mode}})
}

func split() rack.IntelGPU {
	return rack.IntelGPU{PCI: "0000:83:00.0", Device: 0xe211, Driver: "xe", Render: 130, MemoryMiB: 24576, Functions: 2, QuotaMiB: 11000}
}

func whole() rack.IntelGPU {
	return rack.IntelGPU{PCI: "0000:03:00.0", Device: 0x0bd5, Driver: "i915", Render: 128, Tiles: 2, MemoryMiB: 131072}
}

func TestOffers(t *testing.T) {
	r := newRig(t, whole(), split())
	got := map[gpu.ID]share.Offer{}
	for _, o := range r.plan(t, share.Whole).Offers {
		got[o.ID] = o
	}
	for id, want := range map[gpu.ID]struct {
		group       string
		memory      gpu.MiB
		enforcement gpu.Enforcement
		level       gpu.Level
	}{
		"0000:03:00.0": {"max-1550", 131072, gpu.EnforceWhole, gpu.LevelHard},
		"0000:83:00.1": {"arc-pro-b60-vf-2", 11000, gpu.EnforceFunction, gpu.LevelHard},
		"0000:83:00.2": {"arc-pro-b60-vf-2", 11000, gpu.EnforceFunction, gpu.LevelHard},
	} {
		o := got[id]
		if o.Group != want.group || o.Memory != want.memory || o.Enforcement != want.enforcement || o.Enforcement.Level() != want.level || o.MemoryEnforcement != gpu.LevelHard || o.Weight <= 0 {
			t.Errorf("%s is offered as %+v, want %+v", id, o, want)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d offers: %+v", len(got), got)
	}
	// Only what is split.
	if offers := r.plan(t, share.Partition).Offers; len(offers) != 2 {
		t.Errorf("mode partition offers %+v", offers)
	}
}

// A GPU whose memory the kernel does not tell is offered, healthy, and granted.
func TestAGPUOfUnknownMemoryIsOffered(t *testing.T) {
	r := newRig(t, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0x56a0, Driver: "i915", Render: 128, MemoryMiB: 0})
	plan := r.plan(t, share.Whole)
	if state := r.Converge(t.Context(), plan)["0000:03:00.0"]; len(plan.Offers) != 1 || state.Problem != "" {
		t.Fatalf("%+v, %q", plan.Offers, state.Problem)
	}
	granted, err := plan.Grant([]string{"0000:03:00.0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), granted); err != nil {
		t.Fatal(err)
	}
	if g, ok, err := gpu.ParseGrant(granted.Grant.Env()); err != nil || !ok || g.Memory != 0 {
		t.Errorf("the grant reads %+v, %v", g, err)
	}
}

// Level Zero counts tiles: a mask with one number would hide the second tile of a
// GPU that was granted whole.
func TestAffinityNamesEveryTile(t *testing.T) {
	second := whole()
	second.PCI, second.Render = "0000:04:00.0", 129
	r := newRig(t, whole(), second, split())
	plan := r.plan(t, share.Whole)
	for _, c := range []struct {
		ids  []string
		mask string
	}{
		{[]string{"0000:03:00.0"}, "0,1"},
		{[]string{"0000:03:00.0", "0000:04:00.0"}, "0,1,2,3"},
		{[]string{"0000:83:00.2"}, "0"},
	} {
		granted, err := plan.Grant(c.ids)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Reserve(t.Context(), granted)
		if err != nil || got.Env[envAffinity] != c.mask || len(got.Devices) != len(c.ids) || len(got.Mounts) != 1 || !got.Mounts[0].ReadOnly {
			t.Errorf("%v: %+v, %v; want mask %s", c.ids, got, err, c.mask)
		}
	}
}

// What is wrong with a GPU holds for its functions, in the state and in Reserve.
func TestASickGPUTakesItsFunctionsAlong(t *testing.T) {
	r := newRig(t, whole(), split())
	if err := r.rack.Edit("0000:83:00.0", func(g *rack.IntelGPU) { g.Survival = true }); err != nil {
		t.Fatal(err)
	}
	plan := r.plan(t, share.Whole)
	for id, state := range r.Converge(t.Context(), plan) {
		if sick := id != "0000:03:00.0"; sick != (state.Problem != "") {
			t.Errorf("%s: %q", id, state.Problem)
		}
	}
	granted, err := plan.Grant([]string{"0000:83:00.1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), granted); err == nil {
		t.Error("a function of a sick GPU was reserved")
	}
}

// Load and power are of the time between two readings, by the GPU's own clock where
// the driver has one.
func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := whole(), split()
		a.Processes = []rack.IntelProcess{{PID: 21, ResidentKiB: 2048, Busy: 1e9}}
		b.Processes = []rack.IntelProcess{{PID: 22, Function: 2, ResidentKiB: 4096, Busy: 100, Clock: 1000}}
		r := newRig(t, a, b)
		plan := r.plan(t, share.Whole)
		first := r.Usage(t.Context(), plan)
		if u := first["0000:03:00.0"]; u.Busy != -1 || u.MemoryUsed != 2 || u.MemoryTotal != 131072 || len(u.Processes) != 1 || u.Processes[0].PID != 21 {
			t.Errorf("first reading %+v", u)
		}
		time.Sleep(10 * time.Second)
		for pci, change := range map[string]func(*rack.IntelGPU){
			"0000:03:00.0": func(g *rack.IntelGPU) { g.Processes[0].Busy, g.Energy, g.Temperature = 6e9, 3e9, 55 },
			"0000:83:00.0": func(g *rack.IntelGPU) { g.Processes[0].Busy, g.Processes[0].Clock = 350, 2000 },
		} {
			if err := r.rack.Edit(pci, change); err != nil {
				t.Fatal(err)
			}
		}
		second := r.Usage(t.Context(), plan)
		for id, want := range map[gpu.ID]float64{"0000:03:00.0": 50, "0000:83:00.1": 0, "0000:83:00.2": 25} {
			if got := second[id].Busy; math.Abs(got-want) > 0.01 {
				t.Errorf("%s is %v%% busy, want %v", id, got, want)
			}
		}
		metrics := map[string]float64{}
		for _, m := range second["0000:03:00.0"].Metrics {
			metrics[m.Name] = m.Value
		}
		if metrics["power"] != 300 || metrics["temperature"] != 55 {
			t.Errorf("metrics %v, want 300 W and 55 °C", metrics)
		}
	})
}
