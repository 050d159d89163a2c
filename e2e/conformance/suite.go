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
	// UnitsUnknown is set where the vendor's library cannot tell SMs or CUs.
	UnitsUnknown bool
	// Unshared is set where the vendor's GPUs have no slices: the rack then holds a
	// whole GPU of one class, first on the bus, and at least three parts of another.
	Unshared bool
	// Close ends what the plugin leaves running on purpose.
	Close func()
}

const slicesPerGPU = 10

// Run runs the suite; each test has a rig of its own.
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

// offer is the configuration that most tests run with: slices, or what a vendor
// without slices offers by itself.
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
