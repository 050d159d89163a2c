package conformance

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot/internal/gpu"
)

// Rig is one vendor's plugin on one rack of at least two GPUs of any models.
type Rig struct {
	Vendor gpu.Vendor
	Binary string
	// Env runs the plugin on the rack, Bare on a host without the vendor's
	// hardware and library.
	Env, Bare []string
	// Config holds at least root and run_dir. BareConfig is for Bare.
	Config, BareConfig map[string]any
	// Lose makes a GPU of the rack fall off the bus, Restore brings it back.
	Lose, Restore func(gpu.ID) error
	// Close ends what the plugin leaves running on purpose.
	Close func()
}

const slicesPerGPU = 10

// Run runs the suite; each test has a rig of its own.
func Run(t *testing.T, rig func(*testing.T) Rig) {
	for name, test := range map[string]func(*testing.T, *bench){
		"identity and groups":               testGroups,
		"reserve gives environment only":    testReserve,
		"disjoint grants stay within a GPU": testDisjoint,
		"reserve refuses in one line":       testRefusals,
		"reserve before fingerprint":        testReserveFirst,
		"a lost GPU and its return":         testLost,
		"silence while nothing changes":     testSilence,
		"killed and started again":          testKilled,
		"statistics of every instance":      testStats,
		"whole GPUs":                        testWhole,
		"a host without the hardware":       testBare,
		"bad configuration":                 testConfig,
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{t: t, rig: rig(t), log: keepLog(t)}
			if b.rig.Close != nil {
				t.Cleanup(b.rig.Close)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			b.ctx = ctx
			test(t, b)
		})
	}
}

type bench struct {
	t   *testing.T
	ctx context.Context
	rig Rig
	log *logOnFailure
}

func shared() map[string]any {
	return map[string]any{"gpu": []map[string]any{{"*": []map[string]any{{"mode": "shared", "slices": slicesPerGPU}}}}}
}

func (b *bench) launch(env []string, base, extra map[string]any) (*Running, error) {
	config := maps.Clone(base)
	maps.Copy(config, extra)
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: b.log})
	return Launch{Binary: b.rig.Binary, Env: env, Config: config, Dir: b.t.TempDir(), Log: log}.Start()
}

// start launches the plugin on the rack and ends it with the test.
func (b *bench) start(extra map[string]any) *Running {
	b.t.Helper()
	period := map[string]any{"fingerprint_period": "200ms"}
	maps.Copy(period, extra)
	r, err := b.launch(b.rig.Env, b.rig.Config, period)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(r.Kill)
	return r
}

// ready waits for at least one group with all instances healthy everywhere.
func (b *bench) ready(r *Running) []*device.DeviceGroup {
	b.t.Helper()
	return b.await(r, "all instances healthy", func(groups []*device.DeviceGroup) bool {
		return len(groups) > 0 && !slices.ContainsFunc(all(groups), func(d *device.Device) bool { return !d.Healthy })
	})
}

func (b *bench) await(r *Running, what string, ok func([]*device.DeviceGroup) bool) []*device.DeviceGroup {
	b.t.Helper()
	groups, err := r.Groups(b.ctx, ok)
	if err != nil {
		b.t.Fatalf("waiting for %s: %v", what, err)
	}
	return groups
}

func all(groups []*device.DeviceGroup) []*device.Device {
	var out []*device.Device
	for _, g := range groups {
		out = append(out, g.Devices...)
	}
	return out
}

func ids(devices []*device.Device) []string {
	var out []string
	for _, d := range devices {
		out = append(out, d.ID)
	}
	slices.Sort(out)
	return out
}

func testGroups(t *testing.T, b *bench) {
	r := b.start(shared())
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
		checkSlices(t, g)
		for _, key := range []string{"model", "class", "index", "slices", "sharing", "enforcement", "enforcement_level", "memory_enforcement", "memory", "memory_per_slice", "units", "weight", "numa_node", "unique.uuid", "target", "pci"} {
			if g.Attributes[key] == nil {
				t.Errorf("group %s has no attribute %s", g.Name, key)
			}
		}
	}
}

// checkSlices pins house rules: one shared GPU is one group, and nothing that
// names one GPU is in the group's name, which is part of the node's class.
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

// reserve asks for instances and reads the grant back from the answer.
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
	r := b.start(shared())
	for _, g := range b.ready(r) {
		list := ids(g.Devices)[2:5]
		grant := b.reserve(r, list)
		asked := slices.Clone(grant.Instances)
		slices.Sort(asked)
		if grant.Vendor != b.rig.Vendor || grant.Group != g.Name || grant.Slices != 3 || grant.Total != slicesPerGPU || !slices.Equal(asked, list) || len(grant.GPUs) != 1 {
			t.Errorf("granted %+v for %v", grant, list)
		}
		memory, _ := g.Attributes["memory"].GetInt()
		if want := gpu.MiB(memory * 3 / slicesPerGPU); grant.Memory != want {
			t.Errorf("%s: granted %s of %d MiB, want %s", g.Name, grant.Memory, memory, want)
		}
	}
}

func testDisjoint(t *testing.T, b *bench) {
	r := b.start(shared())
	g := b.ready(r)[0]
	list := ids(g.Devices)
	memory, _ := g.Attributes["memory"].GetInt()
	units, _ := g.Attributes["units"].GetInt()
	var sum gpu.Grant
	for _, part := range [][]string{list[:1], list[1:4], list[4:]} {
		grant := b.reserve(r, part)
		sum.Memory += grant.Memory
		sum.Units += grant.Units
		sum.Weight += grant.Weight
	}
	if int64(sum.Memory) > memory || int64(sum.Units) > units {
		t.Errorf("all slices of %s sum to %s and %d units of %d MiB and %d", g.Name, sum.Memory, sum.Units, memory, units)
	}
}

func testRefusals(t *testing.T, b *bench) {
	r := b.start(shared())
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
	list := ids(b.ready(b.start(shared()))[0].Devices)[:2]
	b.reserve(b.start(shared()), list)
}

func testLost(t *testing.T, b *bench) {
	r := b.start(shared())
	groups := b.ready(r)
	slice, err := gpu.ParseSlice(groups[0].Devices[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.rig.Lose(slice.GPU); err != nil {
		t.Fatal(err)
	}
	b.await(r, "all slices of the lost GPU unhealthy with a reason, all others healthy", func(now []*device.DeviceGroup) bool {
		if !slices.Equal(ids(all(now)), ids(all(groups))) {
			return false
		}
		return !slices.ContainsFunc(all(now), func(d *device.Device) bool {
			mine := strings.HasPrefix(d.ID, string(slice.GPU)+"::")
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
	r := b.start(shared())
	b.ready(r)
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	sent := 0
	_, _ = r.Groups(ctx, func([]*device.DeviceGroup) bool { sent++; return false })
	if sent != 1 {
		t.Errorf("%d fingerprints in ten periods without a change, want the first alone: each is a write to Nomad's state", sent)
	}
}

func testKilled(t *testing.T, b *bench) {
	r := b.start(shared())
	before := b.ready(r)
	if err := syscall.Kill(r.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := b.start(shared())
	if after := b.ready(again); !slices.Equal(ids(all(after)), ids(all(before))) {
		t.Errorf("before %s, after %s", Describe(before), Describe(after))
	}
	b.reserve(again, ids(before[0].Devices)[:1])
}

func testStats(t *testing.T, b *bench) {
	r := b.start(shared())
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

func testWhole(t *testing.T, b *bench) {
	r := b.start(map[string]any{"gpu": []map[string]any{{"*": []map[string]any{{"mode": "whole"}}}}})
	for _, g := range b.ready(r) {
		grant := b.reserve(r, ids(g.Devices))
		if len(grant.GPUs) != len(g.Devices) || grant.Total != 1 || grant.Sharing != gpu.SharingNone || len(grant.PCI) != len(grant.GPUs) {
			t.Errorf("all of group %s granted %+v", g.Name, grant)
		}
	}
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
		{block("mode", "fractional"), []string{"mode", "fractional", "shared", "whole"}},
		{block("slices", 0), []string{"slices", "0", "1", "100"}},
		{block("slices", 101), []string{"slices", "101", "1", "100"}},
		{block("slices", "many"), []string{"slices", "many", "1", "100"}},
		{map[string]any{"run_dir": "run"}, []string{"run_dir", "run", "absolute"}},
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

// logOnFailure keeps what the plugins of a test log, and prints it when the test
// has failed.
type logOnFailure struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func keepLog(t *testing.T) *logOnFailure {
	l := &logOnFailure{}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.Failed() {
			t.Logf("log of the plugin:\n%s", l.text.String())
		}
	})
	return l
}

func (l *logOnFailure) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}
