package nvidia

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
)

func newTestMonitor(dir string, log *bytes.Buffer) *monitor {
	return newMonitor(dir, newPolicy(nil, nil), rules, hclog.New(&hclog.LoggerOptions{Output: log}))
}

func see(w *monitor, d time.Duration, v indicators) string {
	w.observe(at(d), []reading{{gpu: gpu.GPU{ID: "GPU-1"}, indicators: v}}, map[gpu.ID]bool{"GPU-1": true})
	return w.problem("GPU-1", "")
}

// TestAStormOfXIDsIsOneChange: every change of the description is a write to
// Nomad's state, and every line of the log one too many.
func TestAStormOfXIDsIsOneChange(t *testing.T) {
	var log bytes.Buffer
	w := newTestMonitor(t.TempDir(), &log)
	see(w, 0, well())
	changes, texts := 0, map[string]bool{}
	for i := range 20_000 {
		now := at(time.Duration(i) * time.Millisecond)
		for _, n := range []uint64{13, 119, 79} {
			if w.xid(now, "GPU-1", n, "") {
				changes++
			}
		}
		texts[w.problem("GPU-1", "")] = true
	}
	if changes != 2 || len(texts) != 1 {
		t.Errorf("%d changes, descriptions %v", changes, texts)
	}
	if lines := strings.Count(log.String(), "\n"); lines > 3*3 {
		t.Errorf("%d lines of log in 20 s", lines)
	}
	// It counts from the last one that the GPU must be well.
	if why := see(w, 79*time.Second, well()); why == "" {
		t.Error("recovered 59 s after the last error")
	}
	if why := see(w, 80*time.Second, well()); why != "" {
		t.Errorf("60 s after the last error: %q", why)
	}
}

// TestAnXIDBeforeTheFirstRound must not overwrite what an earlier plugin knew:
// events arrive from the moment that they are registered for.
func TestAnXIDBeforeTheFirstRound(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	w := newTestMonitor(dir, log)
	see(w, 0, well())
	w.xid(at(0), "GPU-1", 79, "")
	w = newTestMonitor(dir, log)
	w.xid(at(time.Second), "GPU-2", 95, "")
	for id, want := range map[gpu.ID]string{"GPU-1": "XID 79", "GPU-2": "XID 95"} {
		if why := w.problem(id, ""); !strings.HasPrefix(why, want) {
			t.Errorf("%s: %q", id, why)
		}
	}
	text, err := os.ReadFile(w.file)
	if err != nil || !bytes.Contains(text, []byte("GPU-1")) || !bytes.Contains(text, []byte("GPU-2")) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestOnlyAnAbsentDriverIsAReload: a call that failed proves no reset.
func TestOnlyAnAbsentDriverIsAReload(t *testing.T) {
	silent := indicators{action: -1}
	for err, well := range map[error]bool{
		errors.New("timeout"):                          false,
		fmt.Errorf("not loaded: %w", plugin.ErrAbsent): true,
	} {
		w := newTestMonitor(t.TempDir(), &bytes.Buffer{})
		see(w, 0, silent)
		w.xid(at(time.Second), "GPU-1", 95, "")
		w.unread(err)
		see(w, 2*time.Second, silent)
		if why := see(w, 2*time.Minute, silent); (why == "") != well {
			t.Errorf("after %v: %q", err, why)
		}
	}
}
