package amd

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/devices/plugin"
	"aliquot.example/e2e/rack"
)

// served is the plugin at work on a rack, inside the test or as the shipped binary.
type served struct {
	device.DevicePlugin
	t      *testing.T
	rack   *rack.AMD
	log    *logged
	stream <-chan *device.FingerprintResponse
}

// serve starts the plugin with settings on a rack. An empty library leaves the
// kernel's files alone.
func serve(t *testing.T, r *rack.AMD, library string, settings map[string]any) *served {
	t.Helper()
	t.Setenv("ALIQUOT_RACK_AMD", r.Path)
	if library == "" {
		library = "/nonexistent/libamd_smi.so"
	}
	h := &served{t: t, rack: r, log: &logged{}}
	h.DevicePlugin = plugin.New(Maker(), h.log.logger())
	all := map[string]any{"library": library}
	maps.Copy(all, settings)
	h.configure(r, all)
	return h
}

// configure sets the plugin up and listens to its fingerprints.
func (h *served) configure(r *rack.AMD, settings map[string]any) {
	h.t.Helper()
	raw := map[string]any{"root": r.Root, "run_dir": h.t.TempDir(), "fingerprint_period": "100ms"}
	maps.Copy(raw, settings)
	var packed []byte
	if err := base.MsgPackEncode(&packed, raw); err != nil {
		h.t.Fatal(err)
	}
	if err := h.SetConfig(&base.Config{PluginConfig: packed}); err != nil {
		h.t.Fatal(err)
	}
	h.listen()
}

// listen opens the fingerprints and ends them with the test.
func (h *served) listen() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := h.Fingerprint(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	h.stream = stream
	h.t.Cleanup(func() {
		cancel()
		for range stream {
		}
	})
}

// until reads fingerprints until one satisfies ok, and returns it by group.
func (h *served) until(what string, ok func(map[string]*device.DeviceGroup) bool) map[string]*device.DeviceGroup {
	h.t.Helper()
	deadline := time.After(20 * time.Second)
	var last string
	for {
		select {
		case response, open := <-h.stream:
			if !open || response.Error != nil {
				h.t.Fatalf("the fingerprint ended: %+v", response)
			}
			groups := map[string]*device.DeviceGroup{}
			last = ""
			for _, g := range response.Devices {
				groups[g.Name] = g
				last += fmt.Sprintf("\n%s: %d of %d healthy, %s", g.Name, healthy(g), len(g.Devices), why(g))
			}
			if ok(groups) {
				return groups
			}
		case <-deadline:
			h.t.Fatalf("%s: not seen; the last fingerprint was%s\nlog: %s", what, last, h.log.lines)
		}
	}
}

func healthy(g *device.DeviceGroup) int {
	n := 0
	for _, d := range g.Devices {
		if d.Healthy {
			n++
		}
	}
	return n
}

func why(g *device.DeviceGroup) string {
	for _, d := range g.Devices {
		if !d.Healthy {
			return d.HealthDesc
		}
	}
	return ""
}

// all reports that a group has n devices, all healthy.
func all(name string, n int) func(map[string]*device.DeviceGroup) bool {
	return func(groups map[string]*device.DeviceGroup) bool {
		return groups[name] != nil && len(groups[name].Devices) == n && healthy(groups[name]) == n
	}
}

// none reports that no device of a group is healthy, for a reason with a text.
func none(name, reason string) func(map[string]*device.DeviceGroup) bool {
	return func(groups map[string]*device.DeviceGroup) bool {
		return groups[name] != nil && healthy(groups[name]) == 0 && strings.Contains(why(groups[name]), reason)
	}
}

func (h *served) edit(i int, change func(*rack.AMDGPU)) {
	h.t.Helper()
	if err := h.rack.EditGPU(h.rack.GPUs()[i].PCI, change); err != nil {
		h.t.Fatal(err)
	}
}

func gpuBlock(pairs ...string) map[string]any {
	block := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		block[pairs[i]] = pairs[i+1]
	}
	return map[string]any{"gpu": map[string]any{"*": block}}
}
