package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// fakeVendor is a vendor whose GPUs a test moves by hand.
type fakeVendor struct {
	mu     sync.Mutex
	found  []share.Found
	err    error
	states map[gpu.ID]State
	usage  map[gpu.ID]Usage
	rounds int
	wake   func()
	runDir string
	// hung, when set, keeps every call into the driver until it is closed.
	hung chan struct{}
}

func (h *fakeVendor) hang() {
	h.mu.Lock()
	hung := h.hung
	h.mu.Unlock()
	if hung != nil {
		<-hung
	}
}

func (h *fakeVendor) Inventory(context.Context) ([]share.Found, error) {
	h.hang()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.found, h.err
}

func (h *fakeVendor) Converge(context.Context, share.Plan) map[gpu.ID]State {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rounds++
	out := map[gpu.ID]State{}
	for id, s := range h.states {
		out[id] = s
	}
	return out
}

func (h *fakeVendor) Reserve(context.Context, share.Granted) (Reservation, error) {
	return Reservation{Env: map[string]string{"VENDOR": "hand"}, Mounts: []*device.Mount{{HostPath: "/x", TaskPath: "/x"}}}, nil
}

func (h *fakeVendor) Usage(context.Context, share.Plan) map[gpu.ID]Usage {
	h.hang()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.usage
}

func (h *fakeVendor) set(change func(*fakeVendor)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func gpus(n int) []share.Found {
	var out []share.Found
	for i := range n {
		out = append(out, share.Found{
			GPU:     gpu.GPU{ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Vendor: gpu.NVIDIA, Index: i, Class: "h100", Model: "H100", Memory: 80000, Units: 132, PCI: fmt.Sprintf("0000:%02x:00.0", i)},
			Slicing: share.Slicing{Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, Memory: gpu.LevelCooperative},
		})
	}
	return out
}

// rig is a configured plugin over a fakeVendor, with a stream that is being read.
type rig struct {
	*fakeVendor
	plugin *Plugin
	got    chan []*device.DeviceGroup
	end    context.CancelFunc
}

func newRig(t *testing.T, h *fakeVendor) *rig {
	t.Helper()
	maker := Maker{Name: "aliquot-device-hand", Vendor: gpu.NVIDIA, Modes: []share.Mode{share.Shared, share.Whole, share.Off},
		New: func(_ Config, host Host) (Vendor, error) { h.wake = host.Wake; return h, nil }}
	p := New(maker, hclog.NewNullLogger())
	if h.runDir == "" {
		h.runDir = t.TempDir()
	}
	var config []byte
	if err := base.MsgPackEncode(&config, map[string]any{"run_dir": h.runDir}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetConfig(&base.Config{PluginConfig: config}); err != nil {
		t.Fatal(err)
	}
	r := &rig{fakeVendor: h, plugin: p, got: make(chan []*device.DeviceGroup, 100)}
	return r
}

func (r *rig) follow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r.end = cancel
	stream, err := r.plugin.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func(got chan<- []*device.DeviceGroup) {
		for f := range stream {
			if f.Error != nil {
				panic(f.Error)
			}
			got <- f.Devices
		}
		close(got)
	}(r.got)
}

// stop ends the stream; the loop must end with it, or synctest fails the test.
func (r *rig) stop() {
	r.end()
	synctest.Wait()
}

func (r *rig) count() int { synctest.Wait(); return len(r.got) }

func sound(groups []*device.DeviceGroup) (healthy, sick int, why string) {
	for _, g := range groups {
		for _, d := range g.Devices {
			if d.Healthy {
				healthy++
			} else {
				sick++
				why = d.HealthDesc
			}
		}
	}
	return healthy, sick, why
}

func TestNothingRunsBeforeFingerprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(1)})
		time.Sleep(time.Hour)
		if r.rounds != 0 {
			t.Errorf("%d rounds in a process that only validates", r.rounds)
		}
	})
}

func TestOneFingerprintPerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		defer r.stop()
		time.Sleep(time.Minute)
		if n := r.count(); n != 1 {
			t.Fatalf("%d fingerprints in a minute without a change", n)
		}
		r.set(func(h *fakeVendor) { h.states = map[gpu.ID]State{"GPU-1": {Problem: "XID 79"}} })
		r.wake()
		before := time.Now()
		synctest.Wait()
		if n := r.count(); n != 2 || !time.Now().Equal(before) {
			t.Fatalf("%d fingerprints after a wake-up", n)
		}
		<-r.got
		healthy, sick, why := sound(<-r.got)
		if healthy != 20 || sick != 20 || why != "XID 79" {
			t.Errorf("%d healthy, %d not: %s", healthy, sick, why)
		}
	})
}

func TestFirstFingerprintWaitsForWhatStarts(t *testing.T) {
	for _, ready := range []time.Duration{500 * time.Millisecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &fakeVendor{found: gpus(1), states: map[gpu.ID]State{"GPU-0": {Problem: "starting", Starting: true}}})
			start := time.Now()
			r.follow(t)
			defer r.stop()
			time.AfterFunc(ready, func() { r.set(func(h *fakeVendor) { h.states = nil }) })
			_, sick, _ := sound(<-r.got)
			took := time.Since(start)
			if ready < settleTime && (sick > 0 || took > ready+2*settlePoll) {
				t.Errorf("ready after %s, told after %s with %d sick", ready, took, sick)
			}
			if ready > settleTime && (sick != 20 || took > settleTime+2*settlePoll) {
				t.Errorf("never ready, told after %s with %d sick", took, sick)
			}
		})
	}
}

func TestTransientErrorsLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		defer r.stop()
		<-r.got
		r.set(func(h *fakeVendor) { h.found, h.err = nil, errors.New("timeout") })
		time.Sleep((Patience - 1) * 2 * time.Second)
		if n := r.count(); n != 0 {
			t.Fatalf("%d fingerprints within the grace", n)
		}
		time.Sleep(time.Minute)
		healthy, sick, why := sound(<-r.got)
		if healthy != 0 || sick != 40 || !strings.Contains(why, "timeout") {
			t.Errorf("%d healthy, %d not: %s", healthy, sick, why)
		}
		r.set(func(h *fakeVendor) { h.found, h.err = gpus(2), nil })
		time.Sleep(3 * time.Second)
		if healthy, _, _ := sound(<-r.got); healthy != 40 {
			t.Errorf("%d healthy after the error", healthy)
		}
	})
}

// TestALostGPUKeepsItsGroup, and the others keep theirs though the driver counts
// anew.
func TestALostGPUKeepsItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		defer r.stop()
		<-r.got
		r.set(func(h *fakeVendor) {
			h.found = gpus(2)[1:]
			h.found[0].Index = 0
		})
		time.Sleep(3 * time.Second)
		groups := <-r.got
		if len(groups) != 2 || groups[0].Name != "h100-0" || groups[0].Devices[0].Healthy || groups[1].Name != "h100-1" || !groups[1].Devices[0].Healthy {
			t.Errorf("%+v", groups)
		}
	})
}

func TestHardwareThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{err: fmt.Errorf("no library: %w", ErrAbsent)})
		r.follow(t)
		defer r.stop()
		if groups := <-r.got; len(groups) != 0 {
			t.Fatalf("%d groups of nothing", len(groups))
		}
		time.Sleep(time.Hour)
		if n := r.count(); n != 0 {
			t.Fatalf("%d fingerprints without a change", n)
		}
		r.set(func(h *fakeVendor) { h.found, h.err = gpus(1), nil })
		if groups := <-r.got; len(groups) != 1 {
			t.Errorf("%d groups, want 1", len(groups))
		}
	})
}

func TestTwoStreamsOneLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(1)})
		r.follow(t)
		first, end := r.got, r.end
		r.got = make(chan []*device.DeviceGroup, 100)
		r.follow(t)
		defer r.stop()
		<-first
		<-r.got
		time.Sleep(time.Minute)
		r.set(func(h *fakeVendor) {
			if h.rounds > 32 {
				t.Errorf("%d rounds in a minute: more than one loop", h.rounds)
			}
		})
		end()
		synctest.Wait()
		r.set(func(h *fakeVendor) { h.states = map[gpu.ID]State{"GPU-0": {Problem: "x"}} })
		time.Sleep(3 * time.Second)
		if n := r.count(); n != 1 {
			t.Errorf("%d fingerprints on the second stream after the first ended", n)
		}
	})
}

func TestReserveBeforeTheLoop(t *testing.T) {
	r := newRig(t, &fakeVendor{found: gpus(1)})
	c, err := r.plugin.Reserve([]string{"GPU-0::00of20", "GPU-0::01of20"})
	if err != nil || c.Envs["VENDOR"] != "hand" || c.Envs[gpu.EnvSlices] != "2" || len(c.Mounts) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWholeGPUsOfOneClassAreOneGroup(t *testing.T) {
	list := gpus(3)
	less := list[0].Memory - 100 // ECC takes some of it
	list[2].Memory = less
	plan := share.NewPlan(list, []share.Rule{{Selector: share.Any, Mode: share.Whole}})
	groups := groupsOf(gpu.NVIDIA, plan, nil, nil)
	if len(groups) != 1 || len(groups[0].Devices) != 3 || *groups[0].Attributes["memory"].Int != int64(less) {
		t.Fatalf("%+v", groups[0])
	}
	for _, key := range []string{"index", "pci", "unique.uuid"} {
		if groups[0].Attributes[key] != nil {
			t.Errorf("attribute %s is of one GPU only", key)
		}
	}
	if *groups[0].Attributes["model"].String != "H100" {
		t.Errorf("%+v", groups[0].Attributes)
	}
}
