package nvml

// Process is a program on a device.
type Process struct {
	PID    uint32
	Memory uint64 // bytes, or UnknownMemory
}

// UnknownMemory is what NVML reports for a process whose memory it does not know.
const UnknownMemory = ^uint64(0)

// Sample is how busy a process kept a GPU.
type Sample struct {
	PID    uint32
	_      uint32
	Time   uint64 // microseconds, NVML's clock
	SM     uint32 // percent
	Memory uint32
	Enc    uint32
	Dec    uint32
}

// lister has a function for each of the two layouts in which NVML lists processes; nil if the library
// has no function for a layout.
type lister struct {
	v1 func(device uintptr, count *uint32, list *processV1) Return
	v2 func(device uintptr, count *uint32, list *processV2) Return
}

type processV1 struct {
	PID    uint32
	_      uint32
	Memory uint64
}

type processV2 struct {
	PID             uint32
	_               uint32
	Memory          uint64
	GPUInstance     uint32
	ComputeInstance uint32
}

// ComputeProcesses lists the programs that compute on a device.
func (d Device) ComputeProcesses() ([]Process, Return) { return d.lib.calls.compute.of(d) }

// MPSProcesses lists the programs that compute on a device through MPS.
func (d Device) MPSProcesses() ([]Process, Return) { return d.lib.calls.mps.of(d) }

func (l lister) of(d Device) ([]Process, Return) {
	list, r := grown(func(count *uint32, first *processV2) Return { return l.v2(d.handle, count, first) })
	if r != FunctionNotFound {
		return processes(list, func(p processV2) Process { return Process{p.PID, p.Memory} }), r
	}
	older, r := grown(func(count *uint32, first *processV1) Return { return l.v1(d.handle, count, first) })
	return processes(older, func(p processV1) Process { return Process{p.PID, p.Memory} }), r
}

func processes[T any](list []T, of func(T) Process) []Process {
	out := make([]Process, 0, len(list))
	for _, p := range list {
		out = append(out, of(p))
	}
	return out
}

// ProcessUtilization returns the samples that NVML took after a time.
func (d Device) ProcessUtilization(after uint64) ([]Sample, Return) {
	return grown(func(count *uint32, first *Sample) Return {
		return d.lib.calls.processUtilization(d.handle, first, count, after)
	})
}

// minRecords and maxRecords are the smallest and largest number of records for which a buffer has room: processes
// start and end between two calls.
const minRecords, maxRecords = 64, 1 << 16

// grown reads a list into a buffer that grows until the list fits. The call receives the buffer's
// length and returns the number of records.
func grown[T any](call func(count *uint32, first *T) Return) ([]T, Return) {
	for room := uint32(minRecords); ; {
		list := make([]T, room)
		count := room
		r := call(&count, &list[0])
		switch {
		case r == InsufficientSize && room < maxRecords:
			room = min(maxRecords, max(2*room, count))
		case r != Success:
			return nil, r
		default:
			return list[:min(count, room)], r
		}
	}
}
