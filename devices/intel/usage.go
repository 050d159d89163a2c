package intel

import (
	"context"
	"strings"
	"time"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/intel"
	"aliquot.example/internal/share"
)

// client is one process on one GPU.
type client struct {
	pid int
	pci string
}

// Usage reads the kernel's counters for each process that has a GPU open. Load and power are averages
// since the last reading.
func (v *vendor) Usage(_ context.Context, plan share.Plan) map[gpu.ID]plugin.Usage {
	v.measuring.Lock()
	defer v.measuring.Unlock()
	now := time.Now()
	passed := now.Sub(v.read)
	processes, total := v.processes(passed)
	energy := map[gpu.ID]int64{}
	out := map[gpu.ID]plugin.Usage{}
	for _, o := range plan.Offers {
		u := plugin.Usage{MemoryTotal: o.Memory, Busy: -1, Processes: processes[o.PCI]}
		for _, p := range u.Processes {
			u.MemoryUsed += p.Memory
		}
		if !v.read.IsZero() {
			u.Busy = min(100, total[o.PCI])
		}
		card := o.ID
		if o.Parent != "" {
			card = o.Parent
		}
		u.Metrics = v.metrics(card, passed, energy)
		out[o.ID] = u
	}
	v.energy, v.read = energy, now
	return out
}

// processes lists the processes of each GPU, and the sum of their loads in percent, both by PCI
// address.
func (v *vendor) processes(passed time.Duration) (of map[string][]plugin.Process, total map[string]float64) {
	of, total = map[string][]plugin.Process{}, map[string]float64{}
	seen := map[client]kernel.Client{}
	for _, c := range kernel.Clients(v.root) {
		key := client{c.PID, c.PCI}
		seen[key] = c
		p := plugin.Process{PID: c.PID, Memory: c.Memory, Busy: -1}
		if before, ok := v.busy[key]; ok {
			p.Busy = load(before, c, passed)
			total[c.PCI] += p.Busy
		}
		of[c.PCI] = append(of[c.PCI], p)
	}
	v.busy = seen
	return of, total
}

// load returns the percentage of the GPU's time that a client used between two readings.
func load(before, now kernel.Client, passed time.Duration) float64 {
	clock := float64(passed)
	if now.Clock > 0 {
		clock = float64(now.Clock) - float64(before.Clock)
	}
	busy := float64(now.Busy) - float64(before.Busy)
	if clock <= 0 || busy <= 0 {
		return 0 // no time has passed, or another process has the PID now
	}
	return min(100, 100*busy/clock)
}

// metrics returns readings of the card's hardware monitor, which its virtual functions share.
func (v *vendor) metrics(card gpu.ID, passed time.Duration, energy map[gpu.ID]int64) []plugin.Metric {
	var out []plugin.Metric
	hwmon := machine.PCIDevices + "/" + string(card) + "/hwmon"
	for _, monitor := range v.root.Names(hwmon) {
		// In microjoules. With xe and i915, the first counter is that of the card.
		if sum, err := v.root.Number(hwmon, monitor, "energy1_input"); err == nil {
			energy[card] = sum
			if before, ok := v.energy[card]; ok && sum >= before && passed > 0 {
				watts := float64(sum-before) / 1e6 / passed.Seconds()
				out = append(out, plugin.Metric{Name: "power", Value: watts,
					Unit: "W", Desc: "Power drawn by the card"})
			}
		}
		for _, file := range v.root.Names(hwmon, monitor) {
			sensor, ok := strings.CutSuffix(file, "_input")
			if !ok || !strings.HasPrefix(sensor, "temp") {
				continue
			}
			degrees, err := v.root.Number(hwmon, monitor, file)
			name, desc := temperature(v.root.TextOr("", hwmon, monitor, sensor+"_label"))
			if err == nil && name != "" {
				out = append(out, plugin.Metric{Name: name, Value: float64(degrees) / 1000, Unit: "°C", Desc: desc})
			}
		}
	}
	return out
}

// temperature returns the name of a sensor for the driver's label, or "" if the sensor is not reported.
func temperature(label string) (name, desc string) {
	switch label {
	case "pkg", "":
		return "temperature", "Temperature of the chip"
	case "vram":
		return "temperature_memory", "Temperature of the memory"
	}
	return "", ""
}
