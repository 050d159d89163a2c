package nvidia

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"aliquot/devices/plugin"
	"aliquot/internal/gpu"
)

const (
	// waitTime bounds one wait, and with it how long the library cannot be closed.
	waitTime = 500 // milliseconds
	// errorPause keeps a wait that fails at once from spinning.
	errorPause = 250 * time.Millisecond
	wantEvents = nvml.EventTypeXidCriticalError
	// nowhere is the GPU or compute instance of an event that names none.
	nowhere = 0xFFFFFFFF
)

// events waits for XIDs of the GPUs in its own goroutine, and anew when GPUs come
// and go or the driver was reloaded. GPUs without events are watched by the state
// that every round reads.
type events struct {
	lib  *library
	ward *ward
	host plugin.Host

	mu     sync.Mutex
	watch  string // what is waited for: the generation and the GPUs
	ending chan struct{}
	heard  map[gpu.ID]bool // the GPUs whose events arrive
}

// follow makes the waiter watch these GPUs and returns those whose events arrive.
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
	if watch == e.watch {
		return e.heard
	}
	if e.ending != nil {
		close(e.ending)
	}
	e.watch, e.ending, e.heard = watch, make(chan struct{}), map[gpu.ID]bool{}
	set, names, err := e.register(ids)
	if err != nil {
		e.host.Log.Info("GPU errors are found by polling: " + err.Error())
		return e.heard
	}
	for _, id := range names {
		e.heard[id] = true
	}
	go e.wait(set, names, e.ending)
	return e.heard
}

// register makes an event set of the GPUs that support events.
func (e *events) register(ids []gpu.ID) (nvml.EventSet, map[nvml.Device]gpu.ID, error) {
	release, err := e.lib.acquire()
	if err != nil {
		return nil, nil, err
	}
	defer release()
	for _, name := range []string{"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"} {
		if !e.lib.has(name) {
			return nil, nil, fmt.Errorf("the driver lacks %s", name)
		}
	}
	if !e.lib.anyOf("nvmlEventSetWait") {
		return nil, nil, fmt.Errorf("the driver lacks nvmlEventSetWait")
	}
	set, r := e.lib.nvml.EventSetCreate()
	if r != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("no event set: %s", describe(r))
	}
	names := map[nvml.Device]gpu.ID{}
	for _, id := range ids {
		h, ok := e.lib.handle(id)
		if !ok {
			continue
		}
		supported, r := h.GetSupportedEventTypes()
		if r == nvml.SUCCESS && supported&wantEvents != 0 && h.RegisterEvents(supported&wantEvents, set) == nvml.SUCCESS {
			names[h] = id
		}
	}
	if len(names) == 0 {
		set.Free()
		return nil, nil, fmt.Errorf("no GPU supports events")
	}
	return set, names, nil
}

// wait takes events until ending.
func (e *events) wait(set nvml.EventSet, names map[nvml.Device]gpu.ID, ending <-chan struct{}) {
	generation := -1
	for {
		e.lib.mu.RLock()
		if generation < 0 {
			generation = e.lib.generation
		}
		if !e.lib.open || e.lib.generation != generation {
			e.lib.mu.RUnlock()
			return // the set died with the library
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
		case nvml.SUCCESS:
			if id, ok := names[data.Device]; ok {
				e.take(data, id)
			}
		case nvml.ERROR_TIMEOUT:
		default:
			e.host.Wake() // a GPU may be lost
			select {
			case <-ending:
			case <-time.After(errorPause):
			}
		}
	}
}

func (e *events) take(data nvml.EventData, id gpu.ID) {
	mig := ""
	if data.GpuInstanceId != nowhere {
		mig = fmt.Sprintf("%d/", data.GpuInstanceId)
		if data.ComputeInstanceId != nowhere {
			mig += fmt.Sprint(data.ComputeInstanceId)
		}
	}
	if e.ward.xid(time.Now(), id, data.EventData, mig) {
		e.host.Wake()
	}
}
