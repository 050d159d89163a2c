package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/gpu"
)

// TestSlicesChangedUnderATask: its instances are none of the offered ones, so in
// Nomad's account the whole GPU is free.
func TestSlicesChangedUnderATask(t *testing.T) {
	for _, c := range []struct {
		instances string
		blocked   bool
	}{
		{"GPU-0::00of20,GPU-0::01of20", false},
		{"GPU-0::00of10,GPU-0::01of10", true},
		{"GPU-0", true}, // granted whole
		{"GPU-9::00of10", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &fakeVendor{found: gpus(2), usage: map[gpu.ID]Usage{"GPU-0": {Processes: []Process{{PID: 7, Busy: -1}}}}})
			proc := filepath.Join(t.TempDir(), "7")
			if err := os.MkdirAll(proc, 0o755); err != nil {
				t.Fatal(err)
			}
			env := "NOMAD_ALLOC_ID=" + allocA + "\x00NOMAD_TASK_NAME=server\x00" + gpu.EnvInstances + "=" + c.instances
			if err := os.WriteFile(filepath.Join(proc, "environ"), []byte(env), 0o600); err != nil {
				t.Fatal(err)
			}
			r.plugin.loop.owners.proc = filepath.Dir(proc)
			r.follow(t)
			defer r.stop()
			healthy, sick, why := sound(<-r.got)
			if c.blocked != (sick == 20) || healthy+sick != 40 {
				t.Fatalf("%s: %d healthy, %d not: %s", c.instances, healthy, sick, why)
			}
			_, err := r.plugin.Reserve([]string{"GPU-0::05of20"}) // placed before Nomad knew
			if c.blocked != (err != nil && strings.Contains(err.Error(), allocA)) {
				t.Errorf("%s: reserved with %v", c.instances, err)
			}
			if !c.blocked {
				return
			}
			if !strings.Contains(why, allocA) || !strings.Contains(why, "server") {
				t.Errorf("%q", why)
			}
			r.set(func(h *fakeVendor) { h.usage = nil })
			time.Sleep(5 * time.Second)
			if healthy, _, why := sound(<-r.got); healthy != 40 {
				t.Errorf("%d healthy after the task has ended: %s", healthy, why)
			}
			if _, err := r.plugin.Reserve([]string{"GPU-0::05of20"}); err != nil {
				t.Errorf("after the task has ended: %v", err)
			}
		})
	}
}
