package amd

import (
	"errors"
	"fmt"
	"sync"

	"aliquot.example/internal/gpu"
)

// initGPUs restricts the library to AMD's GPUs.
const initGPUs = 2

// processorGPU is the library's type of an AMD GPU.
const processorGPU = 1

// Status codes that did not change between releases.
const (
	statusOK             = 0
	statusNotSupported   = 2
	statusNotImplemented = 3
	statusNoPermission   = 10
	statusNoDriver       = 34
	statusNoData         = 40
)

// Sensors and metrics of amdsmi_get_temp_metric, in degrees Celsius.
const (
	sensorEdge, sensorJunction, sensorMemory = 0, 1, 2
	metricCurrent                            = 0
)

// Events of the library that did not change between releases.
const (
	eventThermal   = 2
	eventPreReset  = 3
	eventPostReset = 4
)

// smi is an initialised AMD SMI library of a known release. Its calls are serialised, except the one
// that waits for events.
type smi struct {
	mu      sync.Mutex
	sym     *symbols
	layout  layout
	Version version
	// Path is the path or name with which the library was opened.
	Path string
	// handles of the cards, by PCI address.
	handles map[pciAddress]handle
	// closed: the library was shut down. The handles are dangling pointers, even if another smi
	// has restarted the library since.
	closed bool
}

// errUnknownRelease means that the library's records cannot be read safely.
var errUnknownRelease = errors.New("this release is not supported")

// start initialises an opened library and finds its GPUs. On failure the library
// is shut down again.
func start(sym *symbols, path string) (*smi, error) {
	if sym.Init == nil || sym.Version == nil || sym.Sockets == nil || sym.Processors == nil || sym.BDF == nil {
		return nil, fmt.Errorf("%s lacks the basic AMD SMI functions; is it another library with that name?", path)
	}
	if status := sym.Init(initGPUs); status != statusOK {
		return nil, statusError("amdsmi_init", status)
	}
	s := &smi{sym: sym, Path: path}
	if err := s.prepare(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare reads the release, which the library reports only after its initialisation, and the GPUs.
func (s *smi) prepare() error {
	b := make([]byte, bufferSize)
	if status := s.sym.Version(&b[0]); status != statusOK {
		return statusError("amdsmi_get_lib_version", status)
	}
	s.Version = versionOf(b)
	known, ok := layouts[s.Version]
	if !ok {
		return fmt.Errorf("%s is AMD SMI %s: %w", s.Path, s.Version, errUnknownRelease)
	}
	s.layout = known
	return s.enumerate()
}

func (s *smi) close() {
	if s.sym.ShutDown != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = true
		s.sym.ShutDown()
	}
}

// enumerate maps PCI addresses to handles. Each partition of a card has a handle; the first one
// represents the card.
func (s *smi) enumerate() error {
	sockets, err := list("amdsmi_get_socket_handles", func(n *uint32, out *handle) int32 {
		return s.sym.Sockets(n, out)
	})
	if err != nil {
		return err
	}
	s.handles = map[pciAddress]handle{}
	for _, socket := range sockets {
		processors, err := list("amdsmi_get_processor_handles", func(n *uint32, out *handle) int32 {
			return s.sym.Processors(socket, n, out)
		})
		if err != nil {
			return err
		}
		for _, h := range processors {
			s.add(h)
		}
	}
	return nil
}

func (s *smi) add(h handle) {
	kind := int32(processorGPU)
	if s.sym.ProcessorType != nil && s.sym.ProcessorType(h, &kind) == statusOK && kind != processorGPU {
		return
	}
	var bdf uint64
	if s.sym.BDF(h, &bdf) != statusOK {
		return
	}
	address := pciAddress{Domain: int(bdf >> 16), Bus: int(bdf >> 8 & 0xff), Device: int(bdf >> 3 & 0x1f),
		Function: int(bdf & 0x7)}
	if _, taken := s.handles[address]; !taken {
		s.handles[address] = h
	}
}

// maxHandles is the largest number of handles that is accepted from a library.
const maxHandles = 1024

// list makes the library's two calls for a list: the count, then the entries.
func list(call string, ask func(*uint32, *handle) int32) ([]handle, error) {
	var n uint32
	if status := ask(&n, nil); status != statusOK {
		return nil, statusError(call, status)
	}
	if n == 0 {
		return nil, nil
	}
	if n > maxHandles {
		return nil, fmt.Errorf("%s reports %d entries, more than any host has", call, n)
	}
	out := make([]handle, n)
	if status := ask(&n, &out[0]); status != statusOK {
		return nil, statusError(call, status)
	}
	return out[:min(int(n), len(out))], nil
}

// smiError is a failed call.
type smiError struct {
	Call   string
	Status int32
}

func statusError(call string, status int32) error { return &smiError{call, status} }

func (e *smiError) Error() string {
	meaning := map[int32]string{
		2: "not supported", 10: "no permission", 30: "busy", 31: "not found", 32: "not initialised",
		34: "the amdgpu driver is not loaded", 40: "no data", 41: "buffer too small",
	}[e.Status]
	if meaning == "" {
		return fmt.Sprintf("%s failed with status %d", e.Call, e.Status)
	}
	return fmt.Sprintf("%s failed with status %d (%s)", e.Call, e.Status, meaning)
}

// record reads one record of a card into a zeroed buffer that is larger than the records of all
// releases. The second result is false if this release or card has no such record.
func (s *smi) record(c card, call func(handle, *byte) int32) ([]byte, bool) {
	b, status, asked := s.ask(c, call)
	return b, asked && status == statusOK
}

// ask is like record and also returns the status of the call. asked is false if there was no call,
// because the library does not know the card or lacks the function.
func (s *smi) ask(c card, call func(handle, *byte) int32) (b []byte, status int32, asked bool) {
	h, ok := s.handles[c.PCI]
	if !ok || call == nil {
		return nil, 0, false
	}
	b = make([]byte, bufferSize)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, false
	}
	return b, call(h, &b[0]), true
}

// answers reads a card's identity and returns an error if the card does not answer. A missing record
// or missing permission is an answer.
func (s *smi) answers(c card) (asked bool, err error) {
	_, status, asked := s.ask(c, s.sym.ASIC)
	switch status {
	case statusOK, statusNotSupported, statusNotImplemented, statusNoPermission, statusNoData:
		return asked, nil
	}
	return asked, statusError("amdsmi_get_gpu_asic_info", status)
}

// asic is the library's identity of a GPU.
type asic struct {
	Name  string
	PCI   uint16
	Units int
}

func (s *smi) asic(c card) (asic, bool) {
	b, ok := s.record(c, s.sym.ASIC)
	if !ok {
		return asic{}, false
	}
	device, _ := s.layout.asicDevice.uint(b)
	a := asic{Name: s.layout.asicName.text(b), PCI: uint16(device)}
	if units, ok := s.layout.asicUnits.uint(b); ok {
		a.Units = int(units)
	}
	return a, true
}

// vram returns the card's whole memory.
func (s *smi) vram(c card) (gpu.MiB, bool) {
	b, ok := s.record(c, s.sym.VRAM)
	if !ok {
		return 0, false
	}
	n, ok := s.layout.vramSize.uint(b)
	return gpu.MiB(n), ok && n > 0
}

func (s *smi) vramUsed(c card) (gpu.MiB, bool) {
	b, ok := s.record(c, s.sym.VRAMUsage)
	if !ok {
		return 0, false
	}
	n, ok := vramUsed.uint(b)
	return gpu.MiB(n), ok
}

// activity returns the busy percentages of the card's compute units and memory.
func (s *smi) activity(c card) (compute, memory float64, ok bool) {
	b, ok := s.record(c, s.sym.Activity)
	if !ok {
		return 0, 0, false
	}
	gfx, okGFX := engineGFX.uint(b)
	mem, okMemory := engineMemory.uint(b)
	return float64(gfx), float64(mem), okGFX && okMemory && gfx <= 100 && mem <= 100
}

// power returns the card's power in watts.
func (s *smi) power(c card) (float64, bool) {
	if !s.layout.powerCurrent.ok() {
		return 0, false
	}
	b, ok := s.record(c, s.sym.Power)
	if !ok {
		return 0, false
	}
	for _, f := range []field{s.layout.powerCurrent, s.layout.powerAverage} {
		// Cards have one of the two; the other is 0 or has all bits set.
		if n, ok := f.uint(b); ok && n > 0 && n < 1<<16-1 {
			return float64(n), true
		}
	}
	return 0, false
}

// temperature of one sensor in degrees Celsius.
func (s *smi) temperature(c card, sensor int32) (float64, bool) {
	h, ok := s.handles[c.PCI]
	if !ok || s.sym.Temperature == nil {
		return 0, false
	}
	var t int64
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.sym.Temperature(h, sensor, metricCurrent, &t) != statusOK || t < -50 || t > 250 {
		return 0, false
	}
	return float64(t), true
}

// ecc returns the error counts since the driver was loaded.
func (s *smi) ecc(c card) (uncorrectable, correctable uint64, ok bool) {
	b, ok := s.record(c, s.sym.ECC)
	if !ok {
		return 0, 0, false
	}
	ue, okUE := eccUncorrectable.uint(b)
	ce, okCE := eccCorrectable.uint(b)
	return ue, ce, okUE && okCE
}

// badPages counts the memory pages that are retired or about to be. A limit of 0
// means that this release reports none.
func (s *smi) badPages(c card) (count, limit uint32, ok bool) {
	h, known := s.handles[c.PCI]
	if !known || s.sym.BadPages == nil {
		return 0, 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, 0, false
	}
	status := s.sym.BadPages(h, &count, nil)
	if status != statusOK && status != statusNoData {
		return 0, 0, false
	}
	if s.sym.BadPageLimit != nil && s.sym.BadPageLimit(h, &limit) != statusOK {
		limit = 0
	}
	return count, limit, true
}
