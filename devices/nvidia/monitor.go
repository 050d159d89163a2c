package nvidia

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// monitor keeps the health of all GPUs, over restarts of the plugin.
type monitor struct {
	file     string
	policy   policy
	recovery recovery
	log      hclog.Logger

	mu     sync.Mutex
	loaded bool
	saved  string
	gpus   map[gpu.ID]*gpuHealth
	logged map[raised]time.Time
}

func newMonitor(runDir string, p policy, r recovery, log hclog.Logger) *monitor {
	return &monitor{file: filepath.Join(runDir, "nvidia", "health.json"), policy: p, recovery: r, log: log,
		gpus: map[gpu.ID]*gpuHealth{}, logged: map[raised]time.Time{}}
}

func (w *monitor) of(id gpu.ID) *gpuHealth {
	p := w.gpus[id]
	if p == nil {
		p = &gpuHealth{indicators: indicators{action: -1}}
		w.gpus[id] = p
	}
	return p
}

// repeatWindow is the time within which a repeated error is logged and saved only once.
const repeatWindow = 10 * time.Second

// xid handles an event and reports whether the GPU's health changed. A failing GPU or a crashing
// program raises thousands of events per second.
func (w *monitor) xid(now time.Time, id gpu.ID, n uint64, mig string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load()
	event := raised{id, n, mig}
	again := now.Sub(w.logged[event]) < repeatWindow
	if !again {
		w.logged[event] = now
	}
	class, text, level := w.policy.class(n), w.policy.text(n), hclog.Info
	switch class {
	case application:
		text += ": a fault of a program; the GPU stays in service"
	case fatal:
		text, level = text+": the GPU is withdrawn", hclog.Warn
	}
	if !again {
		w.log.Log(level, text, "gpu", id, "mig", mig)
	}
	if class != fatal {
		return false
	}
	fresh := w.of(id).fail(fault{XID: n, Text: w.policy.text(n), At: now, MIG: mig})
	if fresh || !again {
		w.save() // otherwise the next round saves it
	}
	return fresh
}

// raised identifies an error, to recognise its repetition within repeatWindow.
type raised struct {
	gpu gpu.ID
	xid uint64
	mig string
}

// observe records a round of readings. A GPU that has disappeared counts as lost. For a GPU without
// events, a new uncorrected ECC error counts as XID 48.
func (w *monitor) observe(now time.Time, readings []reading, registered map[gpu.ID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load()
	present := map[gpu.ID]bool{}
	for _, r := range readings {
		present[r.gpu.ID] = true
		p := w.of(r.gpu.ID)
		before, known := p.indicators.uncorrected, p.seen
		for _, f := range p.observe(now, r.indicators, w.recovery) {
			w.log.Info("the GPU has recovered", "gpu", r.gpu.ID, "from", f.Text)
		}
		if known && !registered[r.gpu.ID] && r.indicators.uncorrected > before {
			w.log.Warn("uncorrected ECC error: the GPU is withdrawn", "gpu", r.gpu.ID)
			p.fail(fault{XID: 48, Text: w.policy.text(48), At: now})
		}
	}
	for id, p := range w.gpus {
		if present[id] {
			continue
		}
		if len(p.faults) == 0 {
			w.log.Warn("the GPU is lost", "gpu", id)
			p.fail(fault{Text: "GPU was lost", At: now})
		}
		p.absent()
	}
	w.save()
}

// unread records a round without readings. Only a missing driver is evidence of a reload; a failed call
// is not.
func (w *monitor) unread(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load()
	for _, p := range w.gpus {
		p.good = time.Time{}
		if errors.Is(err, plugin.ErrAbsent) {
			p.absent()
		}
	}
}

// problem returns why a GPU, or the MIG device with the GPU and compute instance mig, cannot take
// tasks, or "" if it can.
func (w *monitor) problem(id gpu.ID, mig string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.gpus[id]; p != nil {
		return p.problem(mig, w.recovery)
	}
	return ""
}

// record is the file's content.
type record struct {
	// Boot is the kernel's boot ID: a reboot is a reset of every GPU.
	Boot   string
	Faults map[gpu.ID][]fault
}

func (w *monitor) load() {
	if w.loaded {
		return
	}
	w.loaded = true
	text, err := os.ReadFile(w.file)
	if err != nil {
		return
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		w.log.Warn("cannot read the saved health of the GPUs, discarding it", "file", w.file, "error", err)
		return
	}
	for id, faults := range r.Faults {
		p := w.of(id)
		p.faults = append(faults, p.faults...)
		for i := range p.faults {
			p.faults[i].Away = p.faults[i].Away || r.Boot != machine.Running.BootID()
		}
	}
}

// save writes the faults if they changed.
func (w *monitor) save() {
	r := record{Boot: machine.Running.BootID(), Faults: map[gpu.ID][]fault{}}
	for id, p := range w.gpus {
		if len(p.faults) > 0 {
			r.Faults[id] = p.faults
		}
	}
	text, err := json.Marshal(r)
	if err != nil || string(text) == w.saved || (w.saved == "" && len(r.Faults) == 0) {
		return
	}
	if err := plugin.WriteFile(w.file, text); err != nil {
		w.log.Warn("cannot save the GPUs' health; a restart of the plugin would forget their faults", "file", w.file,
			"error", err)
	}
	w.saved = string(text)
}
