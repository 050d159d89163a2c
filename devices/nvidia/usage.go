package nvidia

import (
	"context"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"aliquot/devices/plugin"
	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

// sampler remembers up to when process utilisation was read of each GPU.
type sampler struct {
	mu   sync.Mutex
	seen map[gpu.ID]uint64 // microseconds, NVML's clock
}

// unknown is what NVML says of a process's memory that it cannot tell.
const unknown = ^uint64(0)

// Usage reads load, sensors, error counters and processes of every offer.
func (v *vendor) Usage(_ context.Context, plan share.Plan) map[gpu.ID]plugin.Usage {
	out := map[gpu.ID]plugin.Usage{}
	release, err := v.lib.acquire()
	if err != nil {
		return out
	}
	defer release()
	for _, o := range plan.Offers {
		h, ok := v.lib.handle(o.ID)
		if !ok {
			continue
		}
		physical := h
		if o.Parent != "" {
			if physical, ok = v.lib.handle(o.Parent); !ok {
				continue
			}
		}
		read := make(chan plugin.Usage, 1)
		v.lib.guarded(o.ID, func() {
			if u, ok := v.usageOf(o, h, physical); ok {
				read <- u
			}
		})
		select {
		case out[o.ID] = <-read:
		default:
		}
	}
	return out
}

// usageOf reads one offer. Sensors, counters and utilisation are the physical
// GPU's: a MIG device has none of its own.
func (v *vendor) usageOf(o share.Offer, h, physical nvml.Device) (plugin.Usage, bool) {
	m, r := h.GetMemoryInfo()
	if r != nvml.SUCCESS && r != nvml.ERROR_NOT_SUPPORTED {
		return plugin.Usage{}, false
	}
	u := plugin.Usage{MemoryUsed: gpu.MiBOf(m.Used), MemoryTotal: gpu.MiBOf(m.Total), Busy: -1, Metrics: v.metrics(physical)}
	if v.lib.has("nvmlDeviceGetMemoryInfo_v2") {
		// Without what the driver reserves, which the first version counts as used.
		if m, r := h.GetMemoryInfo_v2(); r == nvml.SUCCESS {
			u.MemoryUsed, u.MemoryTotal = gpu.MiBOf(m.Used), gpu.MiBOf(m.Total-m.Reserved)
		}
	}
	if o.Parent == "" && v.lib.has("nvmlDeviceGetUtilizationRates") {
		if rates, r := h.GetUtilizationRates(); r == nvml.SUCCESS {
			u.Busy = float64(rates.Gpu)
		}
	}
	if n, ok := v.mps.restarts(o.ID); ok {
		u.Metrics = append(u.Metrics, plugin.Metric{Name: "mps_restarts", Value: float64(n), Desc: "MPS daemons that were started in place of one that had ended or hung, since the plugin started"})
	}
	u.Processes = v.processes(o, h)
	return u, true
}

func (v *vendor) metrics(h nvml.Device) []plugin.Metric {
	var out []plugin.Metric
	add := func(name string, value float64, unit, desc string) {
		out = append(out, plugin.Metric{Name: name, Value: value, Unit: unit, Desc: desc})
	}
	if v.lib.has("nvmlDeviceGetPowerUsage") {
		if mw, r := h.GetPowerUsage(); r == nvml.SUCCESS {
			add("power", float64(mw)/1000, "W", "power drawn by the GPU")
		}
	}
	if v.lib.has("nvmlDeviceGetTemperature") {
		if c, r := h.GetTemperature(nvml.TEMPERATURE_GPU); r == nvml.SUCCESS {
			add("temperature", float64(c), "C", "temperature of the GPU")
		}
	}
	if v.lib.has("nvmlDeviceGetClockInfo") {
		if mhz, r := h.GetClockInfo(nvml.CLOCK_SM); r == nvml.SUCCESS {
			add("sm_clock", float64(mhz), "MHz", "clock of the SMs")
		}
	}
	if n, ok := v.lib.eccErrors(h, nvml.MEMORY_ERROR_TYPE_CORRECTED); ok {
		add("ecc_corrected", float64(n), "", "corrected ECC errors since the driver was loaded")
	}
	if n, ok := v.lib.eccErrors(h, nvml.MEMORY_ERROR_TYPE_UNCORRECTED); ok {
		add("ecc_uncorrected", float64(n), "", "uncorrected ECC errors since the driver was loaded")
	}
	if v.lib.has("nvmlDeviceGetRemappedRows") {
		if corrected, uncorrected, _, _, r := h.GetRemappedRows(); r == nvml.SUCCESS {
			add("remapped_rows", float64(corrected+uncorrected), "", "memory rows that were remapped")
		}
	}
	return out
}

// processes lists who uses the offer. NVML lists MPS clients apart from others;
// the MPS server itself belongs to nobody.
func (v *vendor) processes(o share.Offer, h nvml.Device) []plugin.Process {
	byPID := map[int]*plugin.Process{}
	var order []int
	take := func(list []nvml.ProcessInfo, r nvml.Return) {
		for _, p := range list {
			pid := int(p.Pid)
			if r != nvml.SUCCESS || byPID[pid] != nil {
				continue
			}
			one := &plugin.Process{PID: pid, Busy: -1}
			if p.UsedGpuMemory != unknown {
				one.Memory = gpu.MiBOf(p.UsedGpuMemory)
			}
			byPID[pid] = one
			order = append(order, pid)
		}
	}
	if v.lib.anyOf("nvmlDeviceGetMPSComputeRunningProcesses") {
		take(h.GetMPSComputeRunningProcesses())
	}
	if v.lib.anyOf("nvmlDeviceGetComputeRunningProcesses") {
		take(h.GetComputeRunningProcesses())
	}
	if o.Parent == "" && v.lib.has("nvmlDeviceGetProcessUtilization") {
		for pid, busy := range v.usage.since(o.ID, h) {
			if byPID[pid] != nil {
				byPID[pid].Busy = busy
			}
		}
	}
	out := make([]plugin.Process, 0, len(order))
	for _, pid := range order {
		out = append(out, *byPID[pid])
	}
	return out
}

// since returns the SM utilisation of each process, in percent, from the newest
// sample since the last call.
func (s *sampler) since(id gpu.ID, h nvml.Device) map[int]float64 {
	s.mu.Lock()
	last := s.seen[id]
	s.mu.Unlock()
	samples, r := h.GetProcessUtilization(last)
	if r != nvml.SUCCESS {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := map[int]uint64{}
	out := map[int]float64{}
	for _, sample := range samples {
		pid := int(sample.Pid)
		if sample.TimeStamp < newest[pid] || sample.SmUtil > 100 {
			continue
		}
		newest[pid], out[pid] = sample.TimeStamp, float64(sample.SmUtil)
		s.seen[id] = max(s.seen[id], sample.TimeStamp)
	}
	return out
}
