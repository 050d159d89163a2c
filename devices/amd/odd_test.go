package amd

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// rewriteNodes changes the KFD properties of the rack's nodes that contain a text.
func rewriteNodes(t *testing.T, r *rack.AMD, contains, pattern, with string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Root, kfdNodes, "*/properties"))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if after := regexp.MustCompile(pattern).ReplaceAllString(string(text), with); strings.Contains(string(text), contains) && after != string(text) {
			if err := os.WriteFile(file, []byte(after), 0o644); err != nil {
				t.Fatal(err)
			}
			changed++
		}
	}
	if changed == 0 {
		t.Fatalf("no node has %q with %q", contains, pattern)
	}
}

func TestAPropertyThatDoesNotParseIsPassedOver(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI210, 1, "", "")...)
	rewriteNodes(t, r, "simd_per_cu", `(?m)^unique_id .*$`, "unique_id n/a\na_new_property\nanother -1")
	serve(t, r, "", gpuBlock("slices", "20")).until("all slices", all("mi210-0", 20))
}

func TestACardWithoutARenderNodeTakesNoTask(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI210, 1, "", "")...)
	rewriteNodes(t, r, "simd_per_cu", `(?m)^drm_render_minor .*$`, "drm_render_minor 0")
	h := serve(t, r, "", gpuBlock("slices", "20"))
	// The card's own folder still names the node.
	h.until("all slices", all("mi210-0", 20))
	nodes, err := filepath.Glob(filepath.Join(r.Root, pciDir, "*/drm/renderD*"))
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if err := os.RemoveAll(nodes[0]); err != nil {
		t.Fatal(err)
	}
	h.until("no slice", none("mi210-0", "no render node"))
	if _, err := h.Reserve([]string{"0000:05:00.0::00of20"}); err == nil || !strings.Contains(err.Error(), "render node") {
		t.Errorf("a task gets it: %v", err)
	}
}

// raphael is the GPU in a desktop processor.
var raphael = rack.AMDModel{
	Name: "AMD Radeon Graphics", Device: 0x164e, Target: 100306, Hex: 0x1036, XCCs: 1, UnitsPerXCC: 2, Engines: 1, UnitsPerEngine: 2,
	SIMDsPerUnit: 2, MemoryMiB: 512,
}

func TestAProcessorsOwnGPUIsNotOfferedUnlessNamed(t *testing.T) {
	gpus := append(rack.AMDHost(rack.RX7900XTX, 1, "", ""), rack.NewAMDGPU(raphael, 1))
	h := serve(t, newRack(t, gpus...), "", gpuBlock("slices", "4"))
	h.until("the card alone", func(groups map[string]*device.DeviceGroup) bool {
		return all("rx-7900-xtx-0", 4)(groups) && len(groups) == 1
	})
	named := serve(t, newRack(t, gpus...), "", map[string]any{"gpu": map[string]any{"*": map[string]any{"slices": "4"}, "1": map[string]any{"mode": "whole"}}})
	named.until("both", func(groups map[string]*device.DeviceGroup) bool { return len(groups) == 2 })
	alone := serve(t, newRack(t, rack.NewAMDGPU(raphael, 0)), "", gpuBlock("mode", "whole"))
	alone.until("the only one", func(groups map[string]*device.DeviceGroup) bool { return len(groups) == 1 })
}

// A partition of 38 compute units in 20 slices would leave 18 to nobody. The slices
// follow the units, and a grant's weight is that of the units that it has.
func TestSlicesFollowTheComputeUnits(t *testing.T) {
	h := serve(t, newRack(t, rack.AMDHost(rack.MI300X, 1, "CPX", "NPS1")...), "", gpuBlock("slices", "20"))
	groups := h.until("19 slices", func(groups map[string]*device.DeviceGroup) bool {
		for _, g := range groups {
			if len(g.Devices) != 19 || healthy(g) != 19 {
				return false
			}
		}
		return len(groups) == 8
	})
	for _, g := range groups {
		if clamp, _ := g.Attributes["slices_clamped"].GetString(); !strings.Contains(clamp, "19 slices instead of 20") {
			t.Errorf("slices_clamped is %q", clamp)
		}
	}
	// 104 units in 20 slices of 5: a slice is 5/104 of the card and not 1/20.
	mi210 := serve(t, newRack(t, rack.AMDHost(rack.MI210, 1, "", "")...), "", gpuBlock("slices", "20"))
	mi210.until("all slices", all("mi210-0", 20))
	got, err := mi210.Reserve([]string{"0000:05:00.0::00of20", "0000:05:00.0::01of20"})
	if err != nil {
		t.Fatal(err)
	}
	h210, _ := gpu.Lookup(gpu.AMD, 0x740f, "")
	if want := gpu.FormatWeight(h210.Weight * 10 / 104); got.Envs[gpu.EnvWeight] != want {
		t.Errorf("weight %s, want %s", got.Envs[gpu.EnvWeight], want)
	}
}
