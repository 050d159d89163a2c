package amd

import (
	"context"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// Usage reads the load of every offer. Power, temperature and error counts are those of the card,
// memory and processes those of the partition.
func (v *vendor) Usage(_ context.Context, plan share.Plan) map[gpu.ID]plugin.Usage {
	processes := v.processes()
	out := map[gpu.ID]plugin.Usage{}
	for _, offer := range plan.Offers {
		c, n, ok := v.known(offer.ID)
		if !ok {
			continue
		}
		u := plugin.Usage{MemoryTotal: offer.Memory, Busy: -1, Metrics: v.metrics(c)}
		if n.GPUID != 0 {
			u.Processes = usersOf(processes[n.GPUID], n.Shape.Units)
		}
		u.MemoryUsed = v.memoryUsed(c, n, u.Processes)
		u.Busy = v.busy(c, u.Processes)
		out[offer.ID] = u
	}
	return out
}

func usersOf(list []process, units int) []plugin.Process {
	var out []plugin.Process
	for _, p := range list {
		if p.idle() {
			continue
		}
		busy := -1.0
		if units > 0 {
			busy = min(100, 100*float64(p.Units)/float64(units))
		}
		out = append(out, plugin.Process{PID: p.PID, Memory: p.Memory, Busy: busy})
	}
	return out
}

// memoryUsed returns the node's counter of used memory, which alone is right for a partition. Without
// it, memoryUsed returns the card's counter or the sum over processes.
func (v *vendor) memoryUsed(c card, n node, processes []plugin.Process) gpu.MiB {
	if used, ok := v.usedMemory(n); ok {
		return used
	}
	if !c.partitioned() {
		if s := v.lib.use(); s != nil {
			if used, ok := s.vramUsed(c); ok {
				return used
			}
		}
		if used, err := v.Number(pciDir, c.PCI.String(), "mem_info_vram_used"); err == nil && used >= 0 {
			return gpu.MiBOf(uint64(used))
		}
	}
	var sum gpu.MiB
	for _, p := range processes {
		sum += p.Memory
	}
	return sum
}

// busy returns the card's activity. For a partition it returns the occupancy by the processes, since
// the card's counter does not distinguish partitions.
func (v *vendor) busy(c card, processes []plugin.Process) float64 {
	if c.partitioned() {
		sum := 0.0
		for _, p := range processes {
			sum += max(0, p.Busy)
		}
		return min(100, sum)
	}
	if s := v.lib.use(); s != nil {
		if compute, _, ok := s.activity(c); ok {
			return compute
		}
	}
	if n, err := v.Number(pciDir, c.PCI.String(), "gpu_busy_percent"); err == nil && n >= 0 && n <= 100 {
		return float64(n)
	}
	return -1
}

// metrics returns further readings of the card, from the library or, if that has none, from the
// kernel's files.
func (v *vendor) metrics(c card) []plugin.Metric {
	var out []plugin.Metric
	add := func(name string, value float64, ok bool, unit, desc string) {
		if ok {
			out = append(out, plugin.Metric{Name: name, Value: value, Unit: unit, Desc: desc})
		}
	}
	watts, ok := v.power(c)
	add("power", watts, ok, "W", "Power drawn by the card")
	for i, t := range []struct{ name, desc string }{
		{"temperature", "Temperature at the edge of the chip"},
		{"temperature_junction", "Temperature at the hottest spot of the chip"},
		{"temperature_memory", "Temperature of the memory"},
	} {
		degrees, ok := v.temperature(c, i)
		add(t.name, degrees, ok, "°C", t.desc)
	}
	h := v.health(c)
	add("ecc_uncorrected", float64(h.Uncorrectable), true,
		"#", "Uncorrectable RAS errors since the driver was loaded or the card reset")
	add("ecc_corrected", float64(h.Correctable), true,
		"#", "Corrected RAS errors since the driver was loaded or the card reset")
	add("bad_pages", float64(h.BadPages), true, "#", "Memory pages that are retired or will be")
	return out
}

func (v *vendor) power(c card) (float64, bool) {
	if s := v.lib.use(); s != nil {
		if watts, ok := s.power(c); ok {
			return watts, true
		}
	}
	for _, name := range []string{"power1_average", "power1_input"} {
		if n, ok := v.sensor(c, name); ok {
			return n / 1e6, true
		}
	}
	return 0, false
}

// temperature reads sensor 0 (edge), 1 (junction) or 2 (memory), in degrees Celsius.
func (v *vendor) temperature(c card, sensor int) (float64, bool) {
	if s := v.lib.use(); s != nil {
		if t, ok := s.temperature(c, []int32{sensorEdge, sensorJunction, sensorMemory}[sensor]); ok {
			return t, true
		}
	}
	n, ok := v.sensor(c, []string{"temp1_input", "temp2_input", "temp3_input"}[sensor])
	return n / 1000, ok
}

// sensor reads one file of the card's hardware monitor, in the file's unit (microwatts or
// millidegrees).
func (m machine) sensor(c card, file string) (float64, bool) {
	dir := pciDir + "/" + c.PCI.String() + "/hwmon"
	for _, name := range m.Names(dir) {
		if n, err := m.Number(dir, name, file); err == nil {
			return float64(n), true
		}
	}
	return 0, false
}
