package rack

import (
	"strconv"
	"strings"

	"aliquot.example/e2e/rack/wire"
)

// Devices lists the devices that CUDA offers to a process that can reach the devices for which
// there returns true; nil means all. These are the GPUs that are not in MIG mode and the first MIG
// device of each of the others, in NVML's order.
func (f *File) Devices(there func(wire.Device) bool) []wire.Device {
	var out []wire.Device
	for _, g := range f.Present() {
		if g.Get("lost") == "yes" {
			continue
		}
		for _, d := range g.offers() {
			if there == nil || there(d) {
				out = append(out, d)
				break
			}
		}
	}
	return out
}

// offers returns the GPU itself, or its MIG devices if it is in MIG mode.
func (g GPU) offers() []wire.Device {
	if g.Get("mig_mode") != "yes" {
		return []wire.Device{{
			UUID: g.UUID(), Name: g.Get("name"), PCI: g.PCI(), Compute: g.Get("compute"), Minor: g.Int("minor"),
			GI: -1, CI: -1,
			SMs: g.Int("sms"), Units: g.Int("sms"), Step: g.step(), Memory: g.Int("memory_mib") - g.Int("reserved_mib"),
		}}
	}
	var out []wire.Device
	for _, m := range g.MIG {
		out = append(out, g.migDevice(m))
	}
	return out
}

// step returns the number of SMs in which the hardware divides a GPU among MPS clients. Two SMs
// share a texture processing cluster, hence the default.
func (g GPU) step() int {
	if n := g.Int("sm_step"); n > 0 {
		return n
	}
	return 2
}

func (g GPU) migDevice(m Section) wire.Device {
	return wire.Device{
		UUID: m.UUID(), Name: m.Get("name"), PCI: g.PCI(), Compute: g.Get("compute"), Parent: g.UUID(),
		Minor: g.Int("minor"),
		GI:    m.Int("gi"), CI: m.Int("ci"), SMs: m.Int("sms"), Units: m.Int("sms"), Step: g.step(),
		Memory: m.Int("memory_mib"),
	}
}

// Select applies CUDA_VISIBLE_DEVICES to devices as CUDA does: it contains ordinals, UUIDs or
// unique prefixes of UUIDs, in the given order, up to the first entry that names no device. nil
// means that the variable is not set and selects all devices. MIG devices other than the first of a
// GPU are found only by UUID.
func (f *File) Select(devices []wire.Device, visible *string) []wire.Device {
	if visible == nil {
		return devices
	}
	pool := append([]wire.Device{}, devices...)
	for _, g := range f.Present() {
		if g.Get("mig_mode") == "yes" {
			pool = append(pool, g.offers()...)
		}
	}
	var out []wire.Device
	for _, want := range strings.Split(*visible, ",") {
		d, ok := pick(devices, pool, strings.TrimSpace(want))
		if !ok {
			break
		}
		out = append(out, d)
	}
	return out
}

func pick(devices, pool []wire.Device, want string) (wire.Device, bool) {
	if n, err := strconv.Atoi(want); err == nil {
		if n < 0 || n >= len(devices) {
			return wire.Device{}, false
		}
		return devices[n], true
	}
	var found wire.Device
	for _, d := range pool {
		if want == "" || !strings.HasPrefix(d.UUID, want) || d.UUID == found.UUID {
			continue
		}
		if found.UUID != "" {
			return wire.Device{}, false
		}
		found = d
	}
	return found, found.UUID != ""
}
