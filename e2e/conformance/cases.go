package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/gpu"
)

func testGroups(t *testing.T, b *bench) {
	r := b.start(b.offer())
	if r.Info.Type != base.PluginTypeDevice || !strings.HasSuffix(b.rig.Binary, r.Info.Name) {
		t.Errorf("the plugin calls itself %+v, want the name of its binary", r.Info)
	}
	groups := b.ready(r)
	if len(groups) < 2 {
		t.Fatalf("%s: want a group for each of at least two GPUs", Describe(groups))
	}
	for _, g := range groups {
		if err := g.Validate(); err != nil {
			t.Errorf("Nomad would refuse group %s: %v", g.Name, err)
		}
		if g.Vendor != string(b.rig.Vendor) || g.Type != gpu.DeviceType {
			t.Errorf("group %s/%s/%s: want %s/%s", g.Vendor, g.Type, g.Name, b.rig.Vendor, gpu.DeviceType)
		}
		if b.rig.Unshared {
			checkParts(t, g)
		} else {
			checkSlices(t, g)
		}
		keys := []string{"model", "class", "slices", "sharing", "enforcement", "enforcement_level",
			"memory_enforcement", "memory", "memory_per_slice", "units", "weight", "numa_node", "target"}
		if !b.rig.Unshared { // attributes of a single GPU are not attributes of several
			keys = append(keys, "index", "unique.uuid", "pci")
		}
		for _, key := range keys {
			if g.Attributes[key] == nil && !(key == "units" && b.rig.UnitsUnknown) {
				t.Errorf("group %s has no attribute %s", g.Name, key)
			}
		}
	}
}

// testIdle checks that a plugin leaves no trace if only its configuration was validated. The agent
// starts every binary once only to validate, while another instance serves.
func testIdle(t *testing.T, b *bench) {
	b.start(b.offer())
	dir := b.rig.Config["run_dir"].(string)
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		t.Errorf("%s holds %v", dir, entries)
	}
}

// checkSlices checks the project's rules: one shared GPU is one group, and the group's name, which
// is part of the node's class, names no individual GPU.
func checkSlices(t *testing.T, g *device.DeviceGroup) {
	t.Helper()
	var of gpu.ID
	for _, d := range g.Devices {
		s, err := gpu.ParseSlice(d.ID)
		if err != nil || s.Of != slicesPerGPU {
			t.Fatalf("instance %s: %+v, %v", d.ID, s, err)
		}
		if of == "" {
			of = s.GPU
		}
		if s.GPU != of {
			t.Errorf("group %s holds slices of %s and %s", g.Name, of, s.GPU)
		}
		if d.HwLocality == nil || d.HwLocality.PciBusID == "" {
			t.Errorf("instance %s has no PCI locality", d.ID)
		}
	}
	if len(g.Devices) != slicesPerGPU || strings.Contains(g.Name, string(of)) {
		t.Errorf("group %s has %d instances", g.Name, len(g.Devices))
	}
}

// checkParts is checkSlices for whole GPUs and parts of GPUs: each GPU or part is one instance, and
// the group's name names none of them.
func checkParts(t *testing.T, g *device.DeviceGroup) {
	t.Helper()
	for _, d := range g.Devices {
		s, err := gpu.ParseSlice(d.ID)
		if err != nil || s.Of != 1 || string(s.GPU) != d.ID || strings.Contains(g.Name, d.ID) {
			t.Errorf("group %s: instance %s: %+v, %v", g.Name, d.ID, s, err)
		}
		if d.HwLocality == nil || d.HwLocality.PciBusID == "" {
			t.Errorf("instance %s has no PCI locality", d.ID)
		}
	}
}

// reserve reserves instances and parses the grant from the reply.
func (b *bench) reserve(r *Running, list []string) gpu.Grant {
	b.t.Helper()
	answer, err := r.Reserve(list)
	if err != nil {
		b.t.Fatalf("reserve %v: %v", list, err)
	}
	if len(answer.Mounts)+len(answer.Devices) > 0 {
		b.t.Errorf("reserve returned mounts or devices, which Nomad loses: %+v", answer)
	}
	grant, ok, err := gpu.ParseGrant(answer.Envs)
	if err != nil || !ok {
		b.t.Fatalf("reserve %v: no grant in %v: %v", list, answer.Envs, err)
	}
	return grant
}

func testReserve(t *testing.T, b *bench) {
	r := b.start(b.offer())
	for _, g := range b.ready(r) {
		list, total, gpus := ids(g.Devices), slicesPerGPU, 1
		if b.rig.Unshared {
			list, total = list[:min(2, len(list))], 1
			gpus = len(list)
		} else {
			list = list[2:5]
		}
		grant := b.reserve(r, list)
		asked := slices.Clone(grant.Instances)
		slices.Sort(asked)
		if grant.Vendor != b.rig.Vendor || grant.Group != g.Name || grant.Slices != len(list) || grant.Total != total ||
			!slices.Equal(asked, list) || len(grant.GPUs) != gpus {
			t.Errorf("granted %+v for %v", grant, list)
		}
		memory, _ := g.Attributes["memory"].GetInt()
		if want := gpu.MiB(memory * int64(len(list)) / int64(total)); grant.Memory != want {
			t.Errorf("%s: granted %s of %d MiB, want %s", g.Name, grant.Memory, memory, want)
		}
	}
}

func testDisjoint(t *testing.T, b *bench) {
	r := b.start(b.offer())
	g := b.ready(r)[0]
	list := ids(g.Devices)
	memory, _ := g.Attributes["memory"].GetInt()
	var units int64
	if a := g.Attributes["units"]; a != nil {
		units, _ = a.GetInt()
	}
	var sum gpu.Grant
	parts := [][]string{list}
	if !b.rig.Unshared {
		parts = [][]string{list[:1], list[1:4], list[4:]}
	}
	for _, part := range parts {
		grant := b.reserve(r, part)
		sum.Memory += grant.Memory
		sum.Units += grant.Units
		sum.Weight += grant.Weight
	}
	if int64(sum.Memory) > memory || int64(sum.Units) > units {
		t.Errorf("all slices of %s sum to %s and %d units of %d MiB and %d", g.Name, sum.Memory, sum.Units,
			memory, units)
	}
}

func testRefusals(t *testing.T, b *bench) {
	r := b.start(b.offer())
	groups := b.ready(r)
	for name, list := range map[string][]string{
		"no instance":              {},
		"an unknown GPU":           {"GPU-00000000::00of10"},
		"another slice count":      {strings.TrimSuffix(ids(groups[0].Devices)[0], "::00of10") + "::00of20"},
		"slices of two GPUs":       {groups[0].Devices[0].ID, groups[1].Devices[0].ID},
		"one instance asked twice": {groups[0].Devices[0].ID, groups[0].Devices[0].ID},
	} {
		_, err := r.Reserve(list)
		if err == nil {
			t.Errorf("%s: %v was reserved", name, list)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the reason has several lines: %q", name, err)
		}
	}
}

func testReserveFirst(t *testing.T, b *bench) {
	first := b.start(b.offer())
	list := ids(b.ready(first)[0].Devices)
	list = list[:min(2, len(list))]
	first.Kill() // only one plugin at a time works in a run directory
	b.reserve(b.start(b.offer()), list)
}

func testLost(t *testing.T, b *bench) {
	r := b.start(b.offer())
	groups := b.ready(r)
	slice, err := gpu.ParseSlice(groups[0].Devices[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.rig.Lose(slice.GPU); err != nil {
		t.Fatal(err)
	}
	b.await(r, "all slices of the lost GPU unhealthy with a reason, all others healthy",
		func(now []*device.DeviceGroup) bool {
			if !slices.Equal(ids(all(now)), ids(all(groups))) {
				return false
			}
			return !slices.ContainsFunc(all(now), func(d *device.Device) bool {
				mine := d.ID == string(slice.GPU) || strings.HasPrefix(d.ID, string(slice.GPU)+"::")
				return mine == d.Healthy || mine && d.HealthDesc == ""
			})
		})
	if err := b.rig.Restore(slice.GPU); err != nil {
		t.Fatal(err)
	}
	if back := b.ready(r); !slices.Equal(ids(all(back)), ids(all(groups))) {
		t.Errorf("came back as %s, was %s", Describe(back), Describe(groups))
	}
}

func testSilence(t *testing.T, b *bench) {
	r := b.start(b.offer())
	b.ready(r)
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	sent := 0
	_, _ = r.Groups(ctx, func([]*device.DeviceGroup) bool { sent++; return false })
	if sent != 1 {
		t.Errorf("%d fingerprints in ten periods without a change, want the first alone: "+
			"each is a write to Nomad's state", sent)
	}
}

func testKilled(t *testing.T, b *bench) {
	r := b.start(b.offer())
	before := b.ready(r)
	if err := syscall.Kill(r.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := b.start(b.offer())
	if after := b.ready(again); !slices.Equal(ids(all(after)), ids(all(before))) {
		t.Errorf("before %s, after %s", Describe(before), Describe(after))
	}
	b.reserve(again, ids(before[0].Devices)[:1])
}

func testStats(t *testing.T, b *bench) {
	r := b.start(b.offer())
	groups := b.ready(r)
	stream, err := r.Stats(b.ctx, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case response := <-stream:
		if response == nil || response.Error != nil {
			t.Fatalf("no statistics: %+v", response)
		}
		var seen []string
		for _, g := range response.Groups {
			for id, st := range g.InstanceStats {
				seen = append(seen, id)
				if st.Summary == nil || st.Summary.IntDenominatorVal == nil || *st.Summary.IntDenominatorVal <= 0 {
					t.Errorf("instance %s: no memory in its summary", id)
				}
			}
		}
		slices.Sort(seen)
		if want := ids(all(groups)); !slices.Equal(seen, want) {
			t.Errorf("statistics of %v, want %v", seen, want)
		}
	case <-b.ctx.Done():
		t.Fatal("no statistics came")
	}
}

func testMetrics(t *testing.T, b *bench) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	config := b.offer()
	config["metrics_address"] = address
	r := b.start(config)
	groups := b.ready(r)
	// As in the agent, metrics are served while a fingerprint stream is open.
	stream, err := r.Fingerprint(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range stream {
		}
	}()
	want := []string{"aliquot_gpu_memory_bytes{", "aliquot_gpu_memory_used_bytes{"}
	for _, g := range groups {
		want = append(want, fmt.Sprintf("aliquot_device_instances{group=%q,state=\"healthy\",vendor=%q} %d", g.Name,
			g.Vendor, len(g.Devices)))
	}
	text, lacking := "", want
	for len(lacking) > 0 {
		text, err = get(b.ctx, "http://"+address+"/metrics")
		lacking = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.Contains(text, w) })
		select {
		case <-b.ctx.Done():
			t.Fatalf("no %q in: %v\n%s", lacking, err, text)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

func testWhole(t *testing.T, b *bench) {
	r := b.start(map[string]any{"gpu": []map[string]any{{"*": []map[string]any{{"mode": "whole"}}}}})
	for _, g := range b.ready(r) {
		grant := b.reserve(r, ids(g.Devices))
		if len(grant.GPUs) != len(g.Devices) || grant.Total != 1 || grant.Sharing != whole(b, g) ||
			len(grant.PCI) != len(grant.GPUs) {
			t.Errorf("all of group %s granted %+v", g.Name, grant)
		}
	}
}

// whole returns the sharing mode of a group in mode whole: none, unless the GPU is cut into parts.
func whole(b *bench, g *device.DeviceGroup) gpu.Sharing {
	if sharing, _ := g.Attributes["sharing"].GetString(); b.rig.Unshared && len(g.Devices) > 1 {
		return gpu.Sharing(sharing)
	}
	return gpu.SharingNone
}

func testBare(t *testing.T, b *bench) {
	r, err := b.launch(b.rig.Bare, b.rig.BareConfig, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	b.await(r, "an empty fingerprint", func(groups []*device.DeviceGroup) bool { return len(groups) == 0 })
	if _, err := r.Reserve([]string{"GPU-1"}); err == nil {
		t.Error("a GPU was reserved on a host without one")
	}
}

func testConfig(t *testing.T, b *bench) {
	block := func(key string, value any) map[string]any {
		return map[string]any{"gpu": []map[string]any{{"*": []map[string]any{{key: value}}}}}
	}
	for _, c := range []struct {
		config map[string]any
		want   []string
	}{
		{block("mode", "fractional"), []string{"mode", "fractional", "whole", "off"}},
		{block("slices", 0), []string{"slices", "0", "1", "100"}},
		{block("slices", 101), []string{"slices", "101", "1", "100"}},
		{block("slices", "many"), []string{"slices", "many", "1", "100"}},
		{map[string]any{"run_dir": "run"}, []string{"run_dir", "run", "absolute"}},
		{map[string]any{"metrics_address": "9402"}, []string{"metrics_address", "9402", ":9402"}},
		{map[string]any{"fingerprint_period": "soon"}, []string{"fingerprint_period", "soon", "2s"}},
	} {
		r, err := b.launch(b.rig.Env, b.rig.Config, c.config)
		if err == nil {
			r.Kill()
			t.Errorf("%v was accepted", c.config)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %q does not say %q", c.config, err, want)
			}
		}
	}
}
