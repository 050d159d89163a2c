package amd

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/devices/plugin"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

func TestSlicesByCUMask(t *testing.T) {
	for _, c := range []struct {
		model         rack.AMDModel
		slices, group string
		ids           []string
		hsa, hip      string
		units         string
	}{
		{rack.MI210, "20", "mi210-0", []string{"0000:05:00.0::00of20", "0000:05:00.0::01of20", "0000:05:00.0::06of20"}, "0:0-9,30-34", "0x7c00003ff", "15"},
		{rack.MI300X, "19", "mi300x-0", []string{"0000:05:00.0::02of19"}, "0:32-47", "0xffff00000000", "16"},
		{rack.RX7900XTX, "10", "rx-7900-xtx-0", []string{"0000:05:00.0::01of10"}, "0:8-15", "0xff00", "8"},
		{rack.MI355X, "2", "mi355x-0", []string{"0000:05:00.0::00of02", "0000:05:00.0::01of02"}, "", "", "256"},
	} {
		t.Run(c.model.Name, func(t *testing.T) {
			h := serve(t, newRack(t, rack.AMDHost(c.model, 1, "", "")...), "", gpuBlock("slices", c.slices))
			var n int
			fmt.Sscan(c.slices, &n)
			groups := h.until("all slices", all(c.group, n))
			a := groups[c.group].Attributes
			if s, _ := a["memory_enforcement"].GetString(); s != "none" {
				t.Errorf("memory_enforcement is %q", s)
			}
			if s, _ := a["enforcement_level"].GetString(); s != "cooperative" {
				t.Errorf("enforcement_level is %q", s)
			}
			got, err := h.Reserve(c.ids)
			if err != nil {
				t.Fatal(err)
			}
			if got.Envs["HSA_CU_MASK"] != c.hsa || got.Envs["ROC_GLOBAL_CU_MASK"] != c.hip || got.Envs[gpu.EnvUnits] != c.units {
				t.Errorf("masks %q %q of %s units", got.Envs["HSA_CU_MASK"], got.Envs["ROC_GLOBAL_CU_MASK"], got.Envs[gpu.EnvUnits])
			}
			want := "0"
			if c.model.UniqueID {
				want = "GPU-1a2b3c4d5e6f0001"
			}
			if v := got.Envs["ROCR_VISIBLE_DEVICES"]; v != want {
				t.Errorf("ROCR_VISIBLE_DEVICES %q, want %q", v, want)
			}
			if len(got.Devices)+len(got.Mounts) != 0 {
				t.Errorf("devices and mounts without return_mounts: %+v", got)
			}
		})
	}
}

// HIP of known releases fails on its mask variable where a GPU has fewer than 32
// compute units, so such partitions are masked by HSA_CU_MASK alone.
func TestSmallPartitionsHaveNoHIPMask(t *testing.T) {
	small := rack.MI300X
	small.UnitsPerXCC = 20
	h := serve(t, newRack(t, rack.AMDHost(small, 1, "CPX", "NPS1")...), "", gpuBlock("mode", "shared", "slices", "4"))
	h.until("slices of a partition", all("mi300x-100", 4))
	got, err := h.Reserve([]string{"0000:05:00.0-p0::01of04"})
	if err != nil {
		t.Fatal(err)
	}
	if hip, set := got.Envs["ROC_GLOBAL_CU_MASK"]; set || got.Envs["HSA_CU_MASK"] != "0:5-9" {
		t.Errorf("masks %q and %q", got.Envs["HSA_CU_MASK"], hip)
	}
}

func TestPartitionsAsFound(t *testing.T) {
	h := serve(t, newRack(t, rack.AMDHost(rack.MI300X, 2, "CPX", "NPS4")...), "", gpuBlock("mode", "partition"))
	groups := h.until("all partitions", all("mi300x-cpx-nps4", 16))
	a := groups["mi300x-cpx-nps4"].Attributes
	if s, _ := a["enforcement_level"].GetString(); s != "hard" {
		t.Errorf("enforcement_level %q", s)
	}
	if n, _ := a["units"].GetInt(); n != 38 {
		t.Errorf("%d units", n)
	}
	if n, _ := a["memory"].GetInt(); n != 196592/8 {
		t.Errorf("memory %d", n)
	}
	got, err := h.Reserve([]string{"0000:25:00.0-p3", "0000:25:00.0-p1"})
	if err != nil {
		t.Fatal(err)
	}
	if v := got.Envs["ROCR_VISIBLE_DEVICES"]; v != "0,1" {
		t.Errorf("ROCR_VISIBLE_DEVICES %q, want ordinals: partitions share a unique ID", v)
	}
	if got.Envs["HSA_CU_MASK"] != "" || got.Envs[gpu.EnvGPUs] != "0000:25:00.0-p1,0000:25:00.0-p3" {
		t.Errorf("%v", got.Envs)
	}
	if _, err := h.Reserve([]string{"0000:99:00.0-p3"}); err == nil || !strings.Contains(err.Error(), "not offered on this host") {
		t.Errorf("an unknown partition: %v", err)
	}
}

func TestReturnMountsNamesTheNodesOfTheGrantAlone(t *testing.T) {
	settings := gpuBlock("mode", "partition")
	settings["return_mounts"] = "true"
	h := serve(t, newRack(t, rack.AMDHost(rack.MI300X, 1, "CPX", "NPS1")...), "", settings)
	h.until("all partitions", all("mi300x-cpx-nps1", 8))
	got, err := h.Reserve([]string{"0000:05:00.0-p3"})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range got.Devices {
		paths = append(paths, d.TaskPath)
	}
	if fmt.Sprint(paths) != "[/dev/kfd /dev/dri/renderD131]" {
		t.Errorf("device nodes %v", paths)
	}
}

func TestRepartitioningAnIdleCard(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI300X, 2, "", "")...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go r.Follow(ctx)
	if err := r.EditGPU(r.GPUs()[1].PCI, func(g *rack.AMDGPU) {
		g.Processes = []rack.AMDProcess{{PID: 4711, Bytes: 1 << 30}}
	}); err != nil {
		t.Fatal(err)
	}
	h := serve(t, r, built(t, "26.2"), gpuBlock("mode", "partition", "partition", "cpx"))
	groups := h.until("the idle card's partitions", all("mi300x-cpx-nps1", 8))
	if g := groups["mi300x-spx-nps1"]; g == nil || healthy(g) != 0 || !strings.Contains(why(g), "in use by process 4711") {
		t.Fatalf("the busy card: %+v", g)
	}
	if mode := r.GPUs()[1].Compute; mode != "SPX" {
		t.Fatalf("the busy card was made %s", mode)
	}
	h.edit(1, func(g *rack.AMDGPU) { g.Processes = nil })
	h.until("both cards' partitions", all("mi300x-cpx-nps1", 16))
}

func TestAPartitionThatCannotBeIsToldAndTheGPUServedAsItIs(t *testing.T) {
	for _, c := range []struct {
		model           rack.AMDModel
		mode, group, as string
		devices         int
	}{
		{rack.MI300X, "octo", "mi300x-0", "stays in spx, because it offers only spx, dpx, qpx, cpx", 20},
		{rack.MI300X, "tpx", "mi300x-0", "stays in spx, because it offers only spx, dpx, qpx, cpx", 20},
		{rack.RX7900XTX, "cpx", "rx-7900-xtx-0", "has no compute partitions", 20},
	} {
		t.Run(c.model.Name+" "+c.mode, func(t *testing.T) {
			h := serve(t, newRack(t, rack.AMDHost(c.model, 1, "", "")...), "", gpuBlock("partition", c.mode))
			h.until("the GPU as it is", all(c.group, c.devices))
			if n := h.log.count("WARN", c.as); n != 1 {
				t.Errorf("%d warnings with %q: %q", n, c.as, h.log.lines)
			}
		})
	}
}

func TestARefusedRepartitioningSaysWhy(t *testing.T) {
	// Root may write any file, so a directory stands in its place.
	r := newRack(t, rack.AMDHost(rack.MI300X, 1, "", "")...)
	path := machine{host.Root(r.Root)}.Path(pciDir, r.GPUs()[0].PCI, "current_compute_partition")
	c := cardsOf(t, r)[0]
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	var out logged
	p := &partitioner{machine: machine{host.Root(r.Root)}, logged: &journal{log: out.logger(), logged: map[string]string{}}, wake: func() {}}
	for range 3 {
		if problem, starting := p.converge(c, "cpx"); starting || !strings.Contains(problem, "it cannot become cpx") {
			t.Fatalf("problem %q, starting %v", problem, starting)
		}
	}
	if len(out.lines) != 1 {
		t.Errorf("told %d times: %q", len(out.lines), out.lines)
	}
}

func TestHealthOfOneCardOfTwo(t *testing.T) {
	for _, library := range []string{"", "26.5"} {
		t.Run("library "+library, func(t *testing.T) {
			path := ""
			if library != "" {
				path = built(t, library)
			}
			h := serve(t, newRack(t, rack.AMDHost(rack.MI300X, 2, "CPX", "NPS1")...), path, gpuBlock("mode", "shared", "slices", "2"))
			const sick, well = "mi300x-100", "mi300x-200"
			both := func(g map[string]*device.DeviceGroup) bool { return all(sick, 2)(g) && all(well, 2)(g) }
			h.until("both cards", both)
			for _, c := range []struct {
				reason string
				change func(*rack.AMDGPU)
				back   func(*rack.AMDGPU)
			}{
				{"3 uncorrectable RAS errors", func(g *rack.AMDGPU) { g.UE = 3 }, func(g *rack.AMDGPU) { g.UE = 0 }},
				{"bad memory pages", func(g *rack.AMDGPU) { g.BadPages = 5000 }, func(g *rack.AMDGPU) { g.BadPages = 2 }},
				{"the driver no longer lists it", func(g *rack.AMDGPU) { g.Absent = true }, func(g *rack.AMDGPU) { g.Absent = false }},
			} {
				h.edit(0, c.change)
				h.until(c.reason, func(g map[string]*device.DeviceGroup) bool {
					return none(sick, c.reason)(g) && none("mi300x-107", c.reason)(g) && all(well, 2)(g)
				})
				// Placed before Nomad knew.
				if _, err := h.Reserve([]string{"0000:05:00.0-p0::00of02"}); err == nil || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("reserved on a card with %s: %v", c.reason, err)
				}
				if _, err := h.Reserve([]string{"0000:25:00.0-p0::00of02"}); err != nil {
					t.Errorf("the other card: %v", err)
				}
				h.edit(0, c.back)
				h.until("back after "+c.reason, both)
				if _, err := h.Reserve([]string{"0000:05:00.0-p0::00of02"}); err != nil {
					t.Errorf("back after %s: %v", c.reason, err)
				}
			}
		})
	}
}

func TestResetsAndSilenceNeedTheLibrary(t *testing.T) {
	h := serve(t, newRack(t, rack.AMDHost(rack.MI210, 2, "", "")...), built(t, "24.6"), nil)
	both := func(g map[string]*device.DeviceGroup) bool { return all("mi210-0", 20)(g) && all("mi210-1", 20)(g) }
	h.until("both cards", both)
	pci := h.rack.GPUs()[1].PCI
	if err := h.rack.Event(pci, eventPreReset); err != nil {
		t.Fatal(err)
	}
	h.until("the reset", func(g map[string]*device.DeviceGroup) bool {
		return all("mi210-0", 20)(g) && none("mi210-1", "it is being reset")(g)
	})
	if err := h.rack.Event(pci, eventPostReset); err != nil {
		t.Fatal(err)
	}
	h.until("back after the reset", both)
	h.edit(0, func(g *rack.AMDGPU) { g.Lost = true })
	h.until("the silent card", none("mi210-0", "does not answer AMD SMI"))
	h.edit(0, func(g *rack.AMDGPU) { g.Lost = false })
	h.until("back after silence", both)
}

func TestTheDriverGoesAndComes(t *testing.T) {
	h := serve(t, newRack(t, rack.AMDHost(rack.MI210, 1, "", "")...), built(t, "26.2"), nil)
	h.until("the card", all("mi210-0", 20))
	if err := h.rack.SetDriver(false); err != nil {
		t.Fatal(err)
	}
	h.until("no driver", none("mi210-0", "the amdgpu driver is not loaded"))
	if err := h.rack.SetDriver(true); err != nil {
		t.Fatal(err)
	}
	h.until("the card again", all("mi210-0", 20))
}

func TestAHostWithoutAMDHardware(t *testing.T) {
	r := newRack(t)
	if err := r.SetDriver(false); err != nil {
		t.Fatal(err)
	}
	h := serve(t, r, "", nil)
	h.until("no devices", func(g map[string]*device.DeviceGroup) bool { return len(g) == 0 })
	if n := h.log.count("INFO", "the amdgpu driver is not loaded"); n != 1 || h.log.count("WARN", "") != 0 {
		t.Errorf("log %q", h.log.lines)
	}
}

func TestThresholds(t *testing.T) {
	settings := map[string]any{"max_uncorrectable": "5", "max_bad_pages": "10"}
	h := serve(t, newRack(t, rack.AMDHost(rack.MI300X, 1, "", "")...), "", settings)
	h.until("the card", all("mi300x-0", 20))
	h.edit(0, func(g *rack.AMDGPU) { g.UE, g.BadPages = 6, 11 })
	h.until("over both", none("mi300x-0", "6 uncorrectable RAS errors (max_uncorrectable = 5)"))
	h.edit(0, func(g *rack.AMDGPU) { g.UE, g.BadPages = 5, 11 })
	h.until("over one", none("mi300x-0", "11 bad memory pages, over its limit of 10"))
	h.edit(0, func(g *rack.AMDGPU) { g.UE, g.BadPages = 5, 10 })
	h.until("at both limits", all("mi300x-0", 20))
}

func TestUsageOfPartitionsAndProcesses(t *testing.T) {
	gpus := rack.AMDHost(rack.MI300X, 1, "CPX", "NPS1")
	gpus[0].Power, gpus[0].Edge, gpus[0].CE = 444, 51, 3
	gpus[0].Processes = []rack.AMDProcess{{PID: 100, Partition: 3, Bytes: 5 << 30, Units: 19}, {PID: 101, Partition: 0}}
	for _, library := range []string{"", "24.5", "26.5"} {
		t.Run("library "+library, func(t *testing.T) {
			path := ""
			if library != "" {
				path = built(t, library)
			}
			h := serve(t, newRack(t, gpus...), path, gpuBlock("mode", "partition"))
			h.until("the partitions", all("mi300x-cpx-nps1", 8))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stats, err := h.Stats(ctx, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			response := <-stats
			instances := response.Groups[0].InstanceStats
			used := instances["0000:05:00.0-p3"].Stats.Attributes
			if n := *used["gpu_memory"].IntNumeratorVal; n != 5<<10 {
				t.Errorf("partition 3 uses %d MiB", n)
			}
			if n := *used["gpu_busy"].FloatNumeratorVal; n != 50 {
				t.Errorf("partition 3 is %v%% busy", n)
			}
			if n := *instances["0000:05:00.0-p0"].Stats.Attributes["gpu_memory"].IntNumeratorVal; n != 0 {
				t.Errorf("partition 0 uses %d MiB", n)
			}
			for name, want := range map[string]float64{"power": 444, "temperature": 51, "ecc_corrected": 3, "ecc_uncorrected": 0} {
				if v := used[name]; v == nil || *v.FloatNumeratorVal != want {
					t.Errorf("%s is %+v, want %v", name, v, want)
				}
			}
		})
	}
}

func TestBadSettingsNameTheKey(t *testing.T) {
	for key, value := range map[string]string{"library": "libamd_smi.so", "max_uncorrectable": "-1", "max_bad_pages": "many"} {
		var packed []byte
		if err := base.MsgPackEncode(&packed, map[string]any{key: value}); err != nil {
			t.Fatal(err)
		}
		err := plugin.New(Maker(), (&logged{}).logger()).SetConfig(&base.Config{PluginConfig: packed})
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), value) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s = %s: %v", key, value, err)
		}
	}
}
