package nvidia

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/mps"
)

// A question that cannot be put withdraws a GPU only when that lasts; a program that
// was never there does at once.
func TestUnableToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, missing := fmt.Errorf("%w: no memory", mps.ErrUnasked), fmt.Errorf("%w: x", mps.ErrMissing)
		for name, c := range map[string]struct {
			served bool
			err    error
			atOnce bool
		}{
			"a busy host":                  {true, busy, false},
			"a busy host at the beginning": {false, busy, false},
			"a package that is upgraded":   {true, missing, false},
			"no program":                   {false, missing, true},
		} {
			k := &supervisor{host: plugin.Host{Log: hclog.NewNullLogger(), Wake: func() {}}, starting: func() bool { return false }, served: c.served}
			k.controlFailed(c.err)
			if reported := k.state.problem != ""; reported != c.atOnce {
				t.Errorf("%s: told at once %v, want %v", name, reported, c.atOnce)
			}
			time.Sleep(controlFailedTime - time.Second)
			k.controlFailed(c.err)
			if reported := k.state.problem != ""; reported != c.atOnce {
				t.Errorf("%s: told after 29 s %v, want %v", name, reported, c.atOnce)
			}
			time.Sleep(time.Second)
			k.controlFailed(c.err)
			if k.state.problem == "" {
				t.Errorf("%s: not told after %s", name, controlFailedTime)
			}
		}
	})
}

// A daemon that an earlier plugin left and that is still wanted is looked after from the
// first moment: a supervisor that begins as unwanted would end it while no task uses it yet.
func TestAnAdoptedDaemonIsWantedFromTheStart(t *testing.T) {
	host := plugin.Host{Log: hclog.NewNullLogger(), Wake: func() {}}
	d := newDaemons(t.TempDir(), filepath.Join(t.TempDir(), "none"), nil, host, nil)
	const id = gpu.ID("GPU-wanted")
	if err := plugin.WriteFile(d.modeFile(id), []byte("0")); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scan(map[gpu.ID]bool{id: true})
	if k := d.supervisors[id]; k == nil || !k.wanted {
		t.Errorf("the supervisor of a daemon that is wanted begins as %+v", k)
	}
}
