package nvidia

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
)

const (
	// waitTime limits one wait, during which the library cannot be closed.
	waitTime = 500 // milliseconds
	// errorPause prevents a busy loop if waits fail at once.
	errorPause = 250 * time.Millisecond
	wantEvents = nvml.EventXID
)

// events waits for the GPUs' XIDs in its own goroutine. It registers again when the set of GPUs
// changes or the driver was reloaded. For GPUs without events, the state that every round reads has
// to do.
type events struct {
	lib     *library
	monitor *monitor
	host    plugin.Host
	// period of the rounds.
	period time.Duration

	mu         sync.Mutex
	watch      string // the library's generation and the GPUs that are registered
	ending     chan struct{}
	registered map[gpu.ID]bool // the GPUs whose events arrive
	// retryAt is when to retry GPUs whose registration failed temporarily; zero if there are none.
	retryAt time.Time
}

// deafRounds is the number of periods between two attempts to register a GPU whose registration
// failed temporarily.
const deafRounds = 30

// follow registers these GPUs if they have changed, and returns those whose events arrive.
func (e *events) follow(readings []reading) map[gpu.ID]bool {
	ids := make([]gpu.ID, 0, len(readings))
	for _, r := range readings {
		ids = append(ids, r.gpu.ID)
	}
	slices.Sort(ids)
	e.lib.mu.RLock()
	watch := fmt.Sprint(e.lib.generation, ids)
	e.lib.mu.RUnlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if watch == e.watch && (e.retryAt.IsZero() || time.Now().Before(e.retryAt)) {
		return e.registered
	}
	if e.ending != nil {
		close(e.ending)
	}
	logged := e.watch == watch
	e.watch, e.ending, e.registered, e.retryAt = watch, make(chan struct{}), map[gpu.ID]bool{}, time.Time{}
	set, names, deaf, err := e.register(ids)
	if deaf != "" || err != nil {
		if !logged {
			e.logDeaf(deaf, err)
		}
		if deaf != "" {
			e.retryAt = time.Now().Add(deafRounds * e.period)
		}
	}
	if err != nil {
		return e.registered
	}
	for _, id := range names {
		e.registered[id] = true
	}
	go e.wait(set, names, e.ending)
	return e.registered
}

// logDeaf logs once for each set of GPUs which of them have no events.
func (e *events) logDeaf(deaf string, err error) {
	switch {
	case deaf != "":
		e.host.Log.Warn("cannot register for events of some GPUs; polling for their errors and retrying: " + deaf)
	case err != nil:
		e.host.Log.Info("polling for GPU errors: " + err.Error())
	}
}

// register returns an event set with the GPUs that support events. deaf names the GPUs whose
// registration failed temporarily, and why; it is "" if there are none.
func (e *events) register(ids []gpu.ID) (set nvml.EventSet, names map[nvml.Device]gpu.ID, deaf string, err error) {
	release, err := e.lib.acquire()
	if err != nil {
		return nvml.EventSet{}, nil, err.Error(), err
	}
	defer release()
	for _, name := range []string{"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlDeviceRegisterEvents",
		"nvmlDeviceGetSupportedEventTypes"} {
		if !e.lib.has(name) {
			return nvml.EventSet{}, nil, "", fmt.Errorf("the driver lacks %s", name)
		}
	}
	if !e.lib.anyOf("nvmlEventSetWait") {
		return nvml.EventSet{}, nil, "", fmt.Errorf("the driver lacks nvmlEventSetWait")
	}
	set, r := e.lib.nvml.NewEventSet()
	if r != nvml.Success {
		return nvml.EventSet{}, nil, "no event set: " + describe(r), fmt.Errorf("no event set: %s", describe(r))
	}
	names = map[nvml.Device]gpu.ID{}
	for _, id := range ids {
		h, ok := e.lib.handle(id)
		if !ok {
			deaf += fmt.Sprintf("GPU %s: does not answer; ", id)
			continue
		}
		supported, r := h.SupportedEvents()
		if r == nvml.Success && supported&wantEvents == 0 {
			continue
		}
		if r == nvml.Success {
			r = h.RegisterEvents(supported&wantEvents, set)
		}
		switch {
		case r == nvml.Success:
			names[h] = id
		case !permanent(r):
			deaf += fmt.Sprintf("GPU %s: %s; ", id, describe(r))
		}
	}
	deaf = strings.TrimSuffix(deaf, "; ")
	if len(names) == 0 {
		set.Free()
		return nvml.EventSet{}, nil, deaf, fmt.Errorf("no GPU supports events")
	}
	return set, names, deaf, nil
}

// wait handles events until ending is closed.
func (e *events) wait(set nvml.EventSet, names map[nvml.Device]gpu.ID, ending <-chan struct{}) {
	generation := -1
	for {
		e.lib.mu.RLock()
		if generation < 0 {
			generation = e.lib.generation
		}
		if !e.lib.open || e.lib.generation != generation {
			e.lib.mu.RUnlock()
			return // closing the library has freed the set
		}
		select {
		case <-ending:
			set.Free()
			e.lib.mu.RUnlock()
			return
		default:
		}
		data, r := set.Wait(waitTime)
		e.lib.mu.RUnlock()
		switch r {
		case nvml.Success:
			if id, ok := names[data.Device]; ok {
				e.take(data, id)
			}
		case nvml.Timeout:
		default:
			e.host.Wake() // a GPU may be lost
			select {
			case <-ending:
			case <-time.After(errorPause):
			}
		}
	}
}

func (e *events) take(data nvml.Event, id gpu.ID) {
	mig := ""
	if data.GPUInstance != nvml.Nowhere {
		mig = fmt.Sprintf("%d/", data.GPUInstance)
		if data.ComputeInstance != nvml.Nowhere {
			mig += fmt.Sprint(data.ComputeInstance)
		}
	}
	if e.monitor.xid(time.Now(), id, data.Data, mig) {
		e.host.Wake()
	}
}
