package nvidia

import (
	"context"
	"sync"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// sampler remembers the time of the last sample of process utilisation that was read of each GPU.
type sampler struct {
	mu   sync.Mutex
	seen map[gpu.ID]uint64 // microseconds, NVML's clock
}

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
		v.lib.withTimeout(o.ID, func() {
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

// usageOf reads one offer. Sensors, counters and utilisation are those of the physical GPU, because MIG
// devices have none.
func (v *vendor) usageOf(o share.Offer, h, physical nvml.Device) (plugin.Usage, bool) {
	m, r := h.Memory()
	if r != nvml.Success && r != nvml.NotSupported {
		return plugin.Usage{}, false
	}
	u := plugin.Usage{MemoryUsed: gpu.MiBOf(m.Used), MemoryTotal: gpu.MiBOf(m.Total), Busy: -1,
		Metrics: metrics(physical)}
	// Without what the driver reserves, which the first version counts as used.
	if m, r := h.Memory2(); r == nvml.Success {
		u.MemoryUsed, u.MemoryTotal = gpu.MiBOf(m.Used), gpu.MiBOf(m.Total-m.Reserved)
	}
	if o.Parent == "" {
		if rates, r := h.Utilization(); r == nvml.Success {
			u.Busy = float64(rates.GPU)
		}
	}
	if n, ok := v.mps.restarts(o.ID); ok {
		u.Metrics = append(u.Metrics, plugin.Metric{Name: "mps_restarts", Value: float64(n),
			Desc: "restarts of an MPS daemon that had ended or hung, since the plugin started"})
	}
	u.Processes = v.processes(o, h)
	return u, true
}

func metrics(h nvml.Device) []plugin.Metric {
	var out []plugin.Metric
	add := func(name string, value float64, unit, desc string) {
		out = append(out, plugin.Metric{Name: name, Value: value, Unit: unit, Desc: desc})
	}
	if mw, r := h.PowerUsage(); r == nvml.Success {
		add("power", float64(mw)/1000, "W", "power drawn by the GPU")
	}
	if c, r := h.Temperature(); r == nvml.Success {
		add("temperature", float64(c), "C", "temperature of the GPU")
	}
	if mhz, r := h.SMClock(); r == nvml.Success {
		add("sm_clock", float64(mhz), "MHz", "clock of the SMs")
	}
	if n, ok := eccErrors(h, nvml.CorrectedErrors); ok {
		add("ecc_corrected", float64(n), "", "corrected ECC errors since the driver was loaded")
	}
	if n, ok := eccErrors(h, nvml.UncorrectedErrors); ok {
		add("ecc_uncorrected", float64(n), "", "uncorrected ECC errors since the driver was loaded")
	}
	if corrected, uncorrected, _, _, r := h.RemappedRows(); r == nvml.Success {
		add("remapped_rows", float64(corrected+uncorrected), "", "memory rows that were remapped")
	}
	return out
}

// processes lists the processes that use the offer. NVML lists MPS clients separately. The MPS server
// belongs to no task.
func (v *vendor) processes(o share.Offer, h nvml.Device) []plugin.Process {
	byPID := map[int]*plugin.Process{}
	var order []int
	take := func(list []nvml.Process, r nvml.Return) {
		for _, p := range list {
			pid := int(p.PID)
			if r != nvml.Success || byPID[pid] != nil {
				continue
			}
			one := &plugin.Process{PID: pid, Busy: -1}
			if p.Memory != nvml.UnknownMemory {
				one.Memory = gpu.MiBOf(p.Memory)
			}
			byPID[pid] = one
			order = append(order, pid)
		}
	}
	take(h.MPSProcesses())
	take(h.ComputeProcesses())
	if o.Parent == "" {
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
	samples, r := h.ProcessUtilization(last)
	if r != nvml.Success {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := map[int]uint64{}
	out := map[int]float64{}
	for _, sample := range samples {
		pid := int(sample.PID)
		if sample.Time < newest[pid] || sample.SM > 100 {
			continue
		}
		newest[pid], out[pid] = sample.Time, float64(sample.SM)
		s.seen[id] = max(s.seen[id], sample.Time)
	}
	return out
}
