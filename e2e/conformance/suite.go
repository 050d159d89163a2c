package conformance

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/gpu"
)

// Rig is one vendor's plugin on a rack of at least two GPUs of any models.
type Rig struct {
	Vendor gpu.Vendor
	Binary string
	// Env is the environment for the plugin on the rack, Bare that for a host without the vendor's
	// hardware and library.
	Env, Bare []string
	// Config holds at least root and run_dir. BareConfig is used with Bare.
	Config, BareConfig map[string]any
	// Lose makes a GPU of the rack fall off the bus; Restore brings it back.
	Lose, Restore func(gpu.ID) error
	// UnitsUnknown is set if the vendor's library does not report SMs or CUs.
	UnitsUnknown bool
	// Unshared is set if the vendor's GPUs have no slices. The rack then holds a whole GPU of one
	// class, first on the bus, and at least three parts of another.
	Unshared bool
	// Close stops what the plugin leaves running on purpose.
	Close func()
}

const slicesPerGPU = 10

// Run runs the suite. Each test gets its own rig.
func Run(t *testing.T, rig func(*testing.T) Rig) {
	for name, test := range map[string]func(*testing.T, *bench){
		"identity and groups":               testGroups,
		"configuration alone does nothing":  testIdle,
		"reserve gives environment only":    testReserve,
		"disjoint grants stay within a GPU": testDisjoint,
		"reserve refuses in one line":       testRefusals,
		"reserve before fingerprint":        testReserveFirst,
		"a lost GPU and its return":         testLost,
		"silence while nothing changes":     testSilence,
		"killed and started again":          testKilled,
		"statistics of every instance":      testStats,
		"metrics for Prometheus":            testMetrics,
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

// offer returns the configuration of most tests: slices, or the vendor's default if it has no
// slices.
func (b *bench) offer() map[string]any {
	if b.rig.Unshared {
		return map[string]any{}
	}
	return map[string]any{"gpu": []map[string]any{{"*": []map[string]any{{"mode": "shared", "slices": slicesPerGPU}}}}}
}

func (b *bench) launch(env []string, base, extra map[string]any) (*Running, error) {
	config := maps.Clone(base)
	maps.Copy(config, extra)
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: b.log})
	return Launch{Binary: b.rig.Binary, Env: env, Config: config, Dir: b.t.TempDir(), Log: log}.Start()
}

// start launches the plugin on the rack and kills it when the test ends.
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

// ready waits until there is at least one group and all instances of all groups are healthy.
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

// logOnFailure keeps the plugins' logs of a test and prints them if the test fails.
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
