package amd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
	"aliquot.example/e2e/rack"
)

// scratch is a folder of the whole test binary.
var scratch string

// shipped builds the plugin's binary once for all tests.
var shipped = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(scratch, Name)
	out, err := exec.Command("go", "build", "-o", binary, "aliquot.example/cmd/"+Name).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "aliquot-amd-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// launch runs the shipped binary as Nomad does, with the library of a release
// ("" for none) on its library path and the gpu block "*".
func launch(t *testing.T, r *rack.AMD, release string, block map[string]any) *served {
	t.Helper()
	binary, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	lib := ""
	if release != "" {
		lib = filepath.Dir(built(t, release))
	}
	h := &served{t: t, rack: r, log: &logged{}}
	config := map[string]any{"root": r.Root, "run_dir": t.TempDir(), "fingerprint_period": "100ms"}
	if block != nil {
		config["gpu"] = []map[string]any{{"*": []map[string]any{block}}}
	}
	running, err := conformance.Launch{
		Binary: binary, Env: r.Env(lib, []string{"PATH=" + os.Getenv("PATH")}),
		Config: config, Dir: t.TempDir(), Log: h.log.logger(),
	}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Kill)
	h.DevicePlugin = running
	h.listen()
	return h
}

// TestTheShippedBinaryOnEveryRelease runs the plugin as Nomad does on each
// release of the library and without one. The fake library prints to standard
// output, which would break the plugin's protocol were it not kept away.
func TestTheShippedBinaryOnEveryRelease(t *testing.T) {
	for _, release := range append([]string{""}, rack.AMDReleases...) {
		t.Run("release "+release, func(t *testing.T) {
			gpus := []rack.AMDGPU{rack.NewAMDGPU(rack.MI300X, 0), rack.NewAMDGPU(rack.RX7900XTX, 1)}
			// What only the library can tell.
			gpus[0].Model.Name = "AMD Instinct MI300X OAM"
			gpus[0].Sensors = false
			gpus[0].Power, gpus[0].Edge, gpus[0].Busy = 456, 47, 83
			h := launch(t, newRack(t, gpus...), release, map[string]any{"slices": 19})
			groups := h.until("both cards", func(g map[string]*device.DeviceGroup) bool {
				return all("mi300x-0", 19)(g) && all("rx-7900-xtx-1", 19)(g)
			})
			model, library := "AMD Instinct MI300X", "none"
			if release != "" {
				model, library = gpus[0].Model.Name, "amdsmi "+release
			}
			a := groups["mi300x-0"].Attributes
			for name, want := range map[string]string{"model": model, "library": library, "target": "gfx942", "compute_partition": "spx", "driver_version": "6.10.5", "runtime_version": "6.3.1"} {
				if got, _ := a[name].GetString(); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			reserved, err := h.Reserve([]string{"0000:05:00.0::03of19", "0000:05:00.0::07of19"})
			if err != nil || reserved.Envs[envHSAMask] != "0:48-63,112-127" {
				t.Errorf("reserved %+v, %v", reserved, err)
			}
			h.loads(release != "", gpus[0])
			h.edit(0, func(g *rack.AMDGPU) { g.UE = 1 })
			if release == "" {
				return // neither a file nor a library reports the error
			}
			h.until("the broken card", func(g map[string]*device.DeviceGroup) bool {
				return none("mi300x-0", "1 uncorrectable RAS errors")(g) && all("rx-7900-xtx-1", 19)(g)
			})
			h.edit(0, func(g *rack.AMDGPU) { g.UE = 0 })
			h.until("the card again", all("mi300x-0", 19))
		})
	}
}

// loads checks the first card's statistics.
func (h *served) loads(known bool, g rack.AMDGPU) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	stats, err := h.Stats(ctx, time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	used := (<-stats).Groups[0].InstanceStats["0000:05:00.0::00of19"].Stats.Attributes
	for name, want := range map[string]int{"power": g.Power, "temperature": g.Edge, "gpu_busy": g.Busy} {
		switch v := used[name]; {
		case !known && v != nil:
			h.t.Errorf("%s is %v without a source", name, *v.FloatNumeratorVal)
		case known && (v == nil || *v.FloatNumeratorVal != float64(want)):
			h.t.Errorf("%s is %+v, want %d", name, v, want)
		}
	}
}

// Killing the plugin changes nothing for a grant: the next process answers as the
// one before it.
func TestReserveAfterARestartIsTheSame(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI210, 2, "", "")...)
	ids := []string{"0000:25:00.0::01of20", "0000:25:00.0::11of20"}
	var first map[string]string
	for range 2 {
		// Reserve may come before the first fingerprint.
		got, err := launch(t, r, "26.5", nil).Reserve(ids)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got.Envs
		} else if fmt.Sprint(first) != fmt.Sprint(got.Envs) {
			t.Errorf("%v\nand after a restart\n%v", first, got.Envs)
		}
	}
	if !strings.HasPrefix(first[envHSAMask], "0:5-9,") {
		t.Errorf("mask %q", first[envHSAMask])
	}
}
