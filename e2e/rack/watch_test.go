package rack_test

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// eventSeen is one answer of nvmlEventSetWait.
type eventSeen struct {
	Return string
	UUID   string
	Type   uint64
	Data   uint64
	GI     uint32
	MS     int64 // that the call blocked
}

// watchEvents registers every GPU, prints "ready", and for each line on its
// standard input waits up to 2 s (or for "short" 60 ms) and prints the answer.
func watchEvents(lib nvml.Interface, print func(any)) error {
	set, r := lib.EventSetCreate()
	if r != nvml.SUCCESS {
		return must("create", r)
	}
	n, _ := lib.DeviceGetCount()
	for i := range n {
		d, _ := lib.DeviceGetHandleByIndex(i)
		types, r := d.GetSupportedEventTypes()
		if r != nvml.SUCCESS {
			return must("types", r)
		}
		wanted := uint64(nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError)
		if r := d.RegisterEvents(types&wanted, set); r != nvml.SUCCESS {
			return must("register", r)
		}
	}
	print("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		limit := uint32(2000)
		if lines.Text() == "short" {
			limit = 60
		}
		start := time.Now()
		e, r := set.Wait(limit)
		seen := eventSeen{Return: nvml.ErrorString(r), Type: e.EventType, Data: e.EventData, GI: e.GpuInstanceId, MS: time.Since(start).Milliseconds()}
		if r == nvml.SUCCESS {
			seen.UUID, _ = e.Device.GetUUID()
		}
		print(seen)
	}
	return must("free", set.Free())
}

// callEverything prints, for each line on its standard input, what a list of
// calls on GPU 0's handle answers. The line "exclusive" sets the compute mode
// first.
func callEverything(lib nvml.Interface, print func(any)) error {
	d, r := lib.DeviceGetHandleByIndex(0)
	if r != nvml.SUCCESS {
		return must("handle", r)
	}
	print("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() == "exclusive" {
			if r := d.SetComputeMode(nvml.COMPUTEMODE_EXCLUSIVE_PROCESS); r != nvml.SUCCESS {
				return must("set compute mode", r)
			}
		}
		answers := map[string]string{}
		for name, call := range calls {
			value, r := call(lib, d)
			answers[name] = nvml.ErrorString(r)
			if r == nvml.SUCCESS {
				answers[name] = fmt.Sprint(value)
			}
		}
		print(answers)
	}
	return nil
}

var calls = map[string]func(lib nvml.Interface, d nvml.Device) (any, nvml.Return){
	"count": func(lib nvml.Interface, _ nvml.Device) (any, nvml.Return) { return lib.DeviceGetCount() },
	"uuid":  func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetUUID() },
	"util": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		u, r := d.GetUtilizationRates()
		return u.Gpu, r
	},
	"temperature": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		return d.GetTemperature(nvml.TEMPERATURE_GPU)
	},
	"power":        func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetPowerUsage() },
	"limit":        func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetEnforcedPowerLimit() },
	"architecture": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetArchitecture() },
	"numa":         func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetNumaNodeId() },
	"bus width":    func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetMemoryBusWidth() },
	"max clock":    func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetMaxClockInfo(nvml.CLOCK_SM) },
	"reasons":      func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetCurrentClocksEventReasons() },
	"mode":         func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetComputeMode() },
	"ecc": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		return d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	},
	"remap": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		ce, ue, pending, failed, r := d.GetRemappedRows()
		return []any{ce, ue, pending, failed}, r
	},
	"retired": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) { return d.GetRetiredPagesPendingStatus() },
	"attributes": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		a, r := d.GetAttributes()
		return a.MultiprocessorCount, r
	},
	"profile": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		p, r := d.GetGpuInstanceProfileInfo(nvml.GPU_INSTANCE_PROFILE_1_SLICE)
		return p.MultiprocessorCount, r
	},
	"memory v1": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		m, r := d.GetMemoryInfo()
		return m.Used >> 20, r
	},
	"memory v2": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		m, r := d.GetMemoryInfo_v2()
		return m.Used >> 20, r
	},
	"recovery": func(_ nvml.Interface, d nvml.Device) (any, nvml.Return) {
		values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
		r := d.GetFieldValues(values)
		if r == nvml.SUCCESS {
			r = nvml.Return(values[0].NvmlReturn)
		}
		return values[0].Value[0], r
	},
}

// processesSeen is what the probe "processes" prints for each input line.
type processesSeen struct {
	Compute, MPS map[uint32]uint64 // PID -> MiB
	SM           map[uint32]uint32 // PID -> percent
	UsedMiB      uint64
	Util         uint32
}

func listProcesses(lib nvml.Interface, print func(any)) error {
	d, r := lib.DeviceGetHandleByIndex(0)
	if r != nvml.SUCCESS {
		return must("handle", r)
	}
	print("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		seen := processesSeen{Compute: map[uint32]uint64{}, MPS: map[uint32]uint64{}, SM: map[uint32]uint32{}}
		compute, r1 := d.GetComputeRunningProcesses()
		mps, r2 := d.GetMPSComputeRunningProcesses()
		memory, r3 := d.GetMemoryInfo_v2()
		util, r4 := d.GetUtilizationRates()
		for _, r := range []nvml.Return{r1, r2, r3, r4} {
			if r != nvml.SUCCESS {
				return must("processes", r)
			}
		}
		for _, p := range compute {
			seen.Compute[p.Pid] = p.UsedGpuMemory >> 20
		}
		for _, p := range mps {
			seen.MPS[p.Pid] = p.UsedGpuMemory >> 20
		}
		samples, r := d.GetProcessUtilization(0)
		if r != nvml.SUCCESS && r != nvml.ERROR_NOT_FOUND {
			return must("utilisation", r)
		}
		for _, s := range samples {
			if s.Pid != 0 {
				seen.SM[s.Pid] = s.SmUtil
			}
		}
		seen.UsedMiB, seen.Util = memory.Used>>20, util.Gpu
		print(seen)
	}
	return nil
}
