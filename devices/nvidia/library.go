package nvidia

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

const soname = "libnvidia-ml.so.1"

// library is NVML. It is loaded and initialised as soon as that is possible, and again after the driver
// was reloaded. NVML answers no call before a successful Init, so nothing is called unless open is set.
type library struct {
	path, root string

	// mu is held for reading around calls and for writing to open and close.
	mu     sync.RWMutex
	nvml   *nvml.Library
	open   bool
	opened bool // ever
	known  sync.Map
	// linked holds the links of each GPU, by its ID.
	linked sync.Map
	// handles has the GPUs and MIG devices of the last reading; close invalidates them.
	handles map[gpu.ID]nvml.Device
	listing sync.Mutex // guards handles
	// last holds the readings of the last round by NVML index; only read uses it.
	last map[int]reading
	// asking holds the questions that are open, by NVML index; only read uses it.
	asking map[int]*question
	// flight counts calls in separate goroutines, which are started with mu held for reading.
	// stuck has the GPUs whose guarded calls have not returned.
	flight sync.WaitGroup
	stuck  sync.Map
	// left says which GPUs the last round left out and why; only read uses it.
	left string
	// generation counts successful Inits.
	generation int
	// paused says why the library must stay closed; "" if it need not.
	paused string
}

// acquire opens the library if necessary and keeps it open until the returned function is called.
func (l *library) acquire() (release func(), err error) {
	for {
		l.mu.RLock()
		if l.open {
			return l.mu.RUnlock, nil
		}
		l.mu.RUnlock()
		l.mu.Lock()
		err := l.ensure()
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// acquireGPU is like acquire, and returns the handle of a GPU.
func (l *library) acquireGPU(id gpu.ID) (h nvml.Device, release func(), err error) {
	release, err = l.acquire()
	if err != nil {
		return h, nil, err
	}
	h, ok := l.handle(id)
	if !ok {
		release()
		return h, nil, fmt.Errorf("NVML does not list GPU %s now", id)
	}
	return h, release, nil
}

// core are the functions that the plugin requires. Every driver since 2011 has them in some version.
var core = []string{"nvmlShutdown", "nvmlErrorString", "nvmlSystemGetDriverVersion", "nvmlDeviceGetName",
	"nvmlDeviceGetUUID",
	"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"}

// file returns the library to load: the configured one, or the one below a root other than "/", or the
// one that the dynamic linker finds.
func (l *library) file() string {
	if l.path != "" {
		return l.path
	}
	if l.root != "/" {
		for _, dir := range machine.Libraries {
			path := filepath.Join(l.root, dir, soname)
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return soname
}

// ensure opens the library if it is not; called with mu held for writing.
func (l *library) ensure() error {
	if l.open {
		return nil
	}
	if l.paused != "" {
		return withheldError(l.paused)
	}
	file := l.file()
	if l.nvml == nil {
		loaded, err := nvml.Open(file)
		if err != nil {
			return fmt.Errorf(
				"NVIDIA's library cannot be loaded (%w); install NVIDIA's driver if this host has its GPUs: %w", err,
				plugin.ErrAbsent)
		}
		l.nvml = loaded
	}
	r := l.nvml.Init()
	switch r {
	case nvml.Success:
	case nvml.DriverNotLoaded, nvml.LibraryNotFound:
		return fmt.Errorf("NVIDIA's driver is not loaded (%s): %w", describe(r), plugin.ErrAbsent)
	case nvml.VersionMismatch:
		l.replaced()
		return fmt.Errorf("%s and the loaded kernel driver are of different releases; reboot, or reload the driver",
			soname)
	default:
		return fmt.Errorf("NVML cannot start: %s", describe(r))
	}
	for _, name := range core {
		if !l.anyOf(name) {
			l.nvml.Shutdown()
			return fmt.Errorf(
				"%s lacks %s: it is not NVIDIA's management library, or it is too old; install a supported driver",
				file, name)
		}
	}
	l.open, l.opened = true, true
	l.generation++
	return nil
}

// replaced ends the process if the driver was upgraded while it ran. Only a new process can load the
// new library; Nomad starts one at once, without an effect on allocations.
func (l *library) replaced() {
	if l.opened {
		os.Exit(1)
	}
}

// close shuts NVML down after an error that only a new Init can resolve. It waits for the calls in
// flight.
func (l *library) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// While a call hangs in the library, it is neither closed nor initialised again.
	if l.open && l.drain() {
		l.open, l.handles, l.last = false, nil, nil
		l.nvml.Shutdown()
	}
}

// pause closes the library and keeps it closed for a reason. With "", acquire may open it again.
func (l *library) pause(why string) {
	l.mu.Lock()
	l.paused = why
	l.mu.Unlock()
	if why != "" {
		l.close()
	}
}

// handle returns the handle of a GPU or MIG device from the last reading. Callers are between acquire
// and release.
func (l *library) handle(id gpu.ID) (nvml.Device, bool) {
	l.listing.Lock()
	defer l.listing.Unlock()
	h, ok := l.handles[id]
	return h, ok
}

func (l *library) keep(readings []reading) {
	l.listing.Lock()
	defer l.listing.Unlock()
	l.handles, l.last = map[gpu.ID]nvml.Device{}, map[int]reading{}
	for _, r := range readings {
		l.last[r.gpu.Index] = r
		if r.indicators.hung {
			continue // no further calls about a hung GPU
		}
		l.handles[r.gpu.ID] = r.handle
		for _, d := range r.devices {
			l.handles[d.gpu.ID] = d.handle
		}
	}
}

// has reports whether the loaded library exports a function.
func (l *library) has(name string) bool {
	if v, ok := l.known.Load(name); ok {
		return v.(bool)
	}
	ok := l.nvml.Has(name)
	l.known.Store(name, ok)
	return ok
}

// anyOf is like has, for functions of which nvml uses any version.
func (l *library) anyOf(name string) bool {
	return l.has(name) || l.has(name+"_v2") || l.has(name+"_v3")
}

// describe names a return code. It does not call the library, which may not be initialised.
func describe(r nvml.Return) string {
	if name, ok := returns[r]; ok {
		return name
	}
	return fmt.Sprintf("NVML error %d", int(r))
}

var returns = map[nvml.Return]string{
	nvml.Uninitialized: "not initialised", nvml.InvalidArgument: "invalid argument", nvml.NotSupported: "not supported",
	nvml.NoPermission: "no permission; the plugin needs root", nvml.NotFound: "not found",
	nvml.DriverNotLoaded: "driver not loaded", nvml.Timeout: "timeout", nvml.LibraryNotFound: "library not found",
	nvml.FunctionNotFound: "function not found", nvml.GPUIsLost: "GPU is lost", nvml.ResetRequired: "GPU needs a reset",
	nvml.VersionMismatch: "library and kernel driver are of different releases", nvml.OutOfMemory: "out of memory",
	nvml.IRQIssue: "interrupt problem", nvml.OperatingSystem: "refused by the operating system",
	nvml.Unknown: "unknown error",
}

// fatalForLibrary reports whether a return code means that NVML must be initialised again.
func fatalForLibrary(r nvml.Return) bool {
	switch r {
	case nvml.Uninitialized, nvml.DriverNotLoaded, nvml.VersionMismatch:
		return true
	}
	return false
}
