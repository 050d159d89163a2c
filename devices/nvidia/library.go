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

// library is NVML, loaded and initialised when it can be and again after the
// driver was reloaded. NVML answers nothing before a successful Init, so nothing here
// is called unless open.
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
	// handles of the GPUs and MIG devices read last; they die with close.
	handles map[gpu.ID]nvml.Device
	listing sync.Mutex // guards handles
	// last holds the readings of the last round by NVML index; only read uses it.
	last map[int]reading
	// asking holds the questions that are open, by NVML index; only read uses it.
	asking map[int]*question
	// flight counts calls that run in goroutines of their own, begun with mu held for
	// reading; stuck has the GPUs whose guarded calls have not returned.
	flight sync.WaitGroup
	stuck  sync.Map
	// left says which GPUs the last round left out and why; only read uses it.
	left string
	// generation counts successful Inits.
	generation int
	// paused says why the library stays closed, "" where it does not.
	paused string
}

// acquire opens the library where that is needed and holds it open until the
// returned function is called.
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

// core is what the plugin cannot do without; every driver since 2011 has it in
// some version.
var core = []string{"nvmlShutdown", "nvmlErrorString", "nvmlSystemGetDriverVersion", "nvmlDeviceGetName",
	"nvmlDeviceGetUUID",
	"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"}

// file is the library to load: the configured one, the one under a root that is
// not this system's, or whatever the dynamic linker finds.
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
		return fmt.Errorf("%s is of another release than the loaded kernel driver; reboot, or reload the driver",
			soname)
	default:
		return fmt.Errorf("NVML cannot start: %s", describe(r))
	}
	for _, name := range core {
		if !l.anyOf(name) {
			l.nvml.Shutdown()
			return fmt.Errorf(
				"%s lacks %s: it is not NVIDIA's management library or is older than any that is supported", file, name)
		}
	}
	l.open, l.opened = true, true
	l.generation++
	return nil
}

// replaced ends the process where the driver was upgraded under it: the new
// library can only be loaded by a new process, and Nomad starts one at once
// without touching an allocation.
func (l *library) replaced() {
	if l.opened {
		os.Exit(1)
	}
}

// close shuts NVML down after an error that only a new Init can mend. It waits
// for the calls in flight.
func (l *library) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A driver in which a call hangs is neither unloaded nor started again.
	if l.open && l.landed() {
		l.open, l.handles, l.last = false, nil, nil
		l.nvml.Shutdown()
	}
}

// pause keeps the library closed for a reason, or lets it be opened again with "".
func (l *library) pause(why string) {
	l.mu.Lock()
	l.paused = why
	l.mu.Unlock()
	if why != "" {
		l.close()
	}
}

// handle returns the handle of a GPU or MIG device that was read last; called
// between acquire and release.
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
			continue // it is not read any further
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

// anyOf is has for functions of several versions, any of which nvml uses.
func (l *library) anyOf(name string) bool {
	return l.has(name) || l.has(name+"_v2") || l.has(name+"_v3")
}

// describe names a return code without calling the library, which may not be up.
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
	nvml.IRQIssue: "interrupt trouble", nvml.OperatingSystem: "refused by the operating system",
	nvml.Unknown: "unknown error",
}

// fatalForLibrary reports whether a return code means that NVML must be initialised
// anew.
func fatalForLibrary(r nvml.Return) bool {
	switch r {
	case nvml.Uninitialized, nvml.DriverNotLoaded, nvml.VersionMismatch:
		return true
	}
	return false
}
