// Package nvml calls NVIDIA's management library (libnvidia-ml.so.1) without cgo. It
// has the functions that the device plugin needs, under NVML's own names without "Get";
// https://docs.nvidia.com/deploy/nvml-api describes them. A function that the loaded
// library lacks returns FunctionNotFound. Init must return Success before any other call.
package nvml

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/ebitengine/purego"
)

// noDelete keeps the library in memory until the process ends (RTLD_NODELETE of Linux).
const noDelete = 0x1000

// Library is NVML, loaded into this process. Like NVML's functions, its methods may be called from
// several goroutines at once.
type Library struct {
	handle uintptr
	calls  calls
}

// Open loads the library with a path, or with a name that the dynamic linker finds.
func Open(file string) (*Library, error) {
	handle, err := purego.Dlopen(file, purego.RTLD_LAZY|purego.RTLD_GLOBAL|noDelete)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if handle == 0 {
		return nil, errors.New(file + " cannot be loaded")
	}
	l := &Library{handle: handle}
	for _, b := range l.calls.bindings() {
		l.bind(b)
	}
	return l, nil
}

// Has reports whether the library exports a function.
func (l *Library) Has(name string) bool {
	address, err := purego.Dlsym(l.handle, name)
	return err == nil && address != 0
}

// binding is a call and the functions that may serve it, the newest first.
type binding struct {
	call  any // pointer to a function that returns a Return
	names []string
}

func (l *Library) bind(b binding) {
	for _, name := range b.names {
		if address, err := purego.Dlsym(l.handle, name); err == nil && address != 0 {
			purego.RegisterFunc(b.call, address)
			return
		}
	}
	call := reflect.ValueOf(b.call).Elem()
	none := []reflect.Value{reflect.ValueOf(FunctionNotFound)}
	call.Set(reflect.MakeFunc(call.Type(), func([]reflect.Value) []reflect.Value { return none }))
}

// Init starts NVML. It may be called again after Shutdown.
func (l *Library) Init() Return { return l.calls.init() }

// Shutdown ends NVML and invalidates every device and event set.
func (l *Library) Shutdown() Return { return l.calls.shutdown() }

// DriverVersion returns the version of the driver, such as "590.44.01".
func (l *Library) DriverVersion() (string, Return) {
	var buffer [80]byte
	r := l.calls.driverVersion(&buffer[0], uint32(len(buffer)))
	return text(buffer[:]), r
}

// CUDADriverVersion returns the CUDA version of the driver as 1000*major + 10*minor.
func (l *Library) CUDADriverVersion() (int, Return) {
	var version int32
	r := l.calls.cudaVersion(&version)
	return int(version), r
}

// DeviceCount returns the number of GPUs.
func (l *Library) DeviceCount() (int, Return) {
	var count uint32
	r := l.calls.count(&count)
	return int(count), r
}

// DeviceByIndex returns a GPU by the driver's index, which begins at 0.
func (l *Library) DeviceByIndex(index int) (Device, Return) {
	d := Device{lib: l}
	r := l.calls.byIndex(uint32(index), &d.handle)
	return d, r
}

// NewEventSet returns an empty event set, which must be freed.
func (l *Library) NewEventSet() (EventSet, Return) {
	set := EventSet{lib: l}
	r := l.calls.newEventSet(&set.handle)
	return set, r
}

// EventSet waits for events of the devices that were registered with it.
type EventSet struct {
	lib    *Library
	handle uintptr
}

// Event is one event of a device.
type Event struct {
	Device Device
	Type   uint64
	Data   uint64 // XID of an EventXID
	// GPUInstance and ComputeInstance are where it happened, Nowhere if that is unknown.
	GPUInstance, ComputeInstance uint32
}

// Nowhere means no GPU or compute instance in an Event.
const Nowhere = 0xFFFFFFFF

// Wait returns the next event, or Timeout after so many milliseconds.
func (s EventSet) Wait(milliseconds uint32) (Event, Return) {
	data := eventData{GPUInstance: Nowhere, ComputeInstance: Nowhere}
	r := s.lib.calls.wait(s.handle, &data, milliseconds)
	return Event{Device{s.lib, data.Device}, data.Type, data.Data, data.GPUInstance, data.ComputeInstance}, r
}

// Free frees the set.
func (s EventSet) Free() Return { return s.lib.calls.freeEventSet(s.handle) }

// text is the string in a buffer of C.
func text(buffer []byte) string {
	before, _, _ := strings.Cut(string(buffer), "\x00")
	return before
}
