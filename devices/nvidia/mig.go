package nvidia

import (
	"fmt"
	"strings"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
)

type migDevice struct {
	handle   nvml.Device
	gpu      gpu.GPU
	fraction float64
	// common is the memory of the GPU instance if that has several compute instances, else 0.
	common gpu.MiB
}

// migOf reads the GPU's MIG mode and devices. It sets uncertain if a call fails temporarily, because a
// GPU without its MIG devices would be offered as a whole GPU.
func migOf(h nvml.Device, out *reading) {
	enabled, r := h.MIGMode()
	if r != nvml.Success || !enabled {
		out.uncertain = !permanent(r)
		return
	}
	out.mig = true
	most, r := h.MaxMIGDevices()
	if r != nvml.Success {
		out.uncertain = !permanent(r)
		return
	}
	for i := range most {
		d, r := h.MIGDevice(i)
		var one migDevice
		if r == nvml.Success {
			one, r = readMIG(d, *out)
		}
		switch {
		case r == nvml.Success:
			out.devices = append(out.devices, one)
		case !permanent(r):
			out.uncertain = true
		}
	}
	apportion(out.devices)
}

// apportion divides the memory of a GPU instance among its compute instances by their SMs, because each
// of them reports the whole memory.
func apportion(devices []migDevice) {
	instance := func(d migDevice) string { gi, _, _ := strings.Cut(d.gpu.MIG, "/"); return gi }
	count, units := map[string]int{}, map[string]int{}
	for _, d := range devices {
		count[instance(d)]++
		units[instance(d)] += d.gpu.Units
	}
	for i, d := range devices {
		if gi := instance(d); gi != "" && count[gi] > 1 && units[gi] > 0 {
			devices[i].common = d.gpu.Memory
			devices[i].gpu.Memory = d.gpu.Memory * gpu.MiB(d.gpu.Units) / gpu.MiB(units[gi])
		}
	}
}

// permanent reports whether a call's result is permanent: success, or an error that says that the property
// does not exist. Other errors are temporary.
func permanent(r nvml.Return) bool {
	switch r {
	case nvml.Success, nvml.NotSupported, nvml.NotFound, nvml.InvalidArgument, nvml.NoPermission,
		nvml.FunctionNotFound, nvml.GPUNotFound:
		return true
	}
	return false
}

func readMIG(d nvml.Device, parent reading) (migDevice, nvml.Return) {
	uuid, r := d.UUID()
	if r != nvml.Success {
		return migDevice{}, r
	}
	attributes, r := d.Attributes()
	if r != nvml.Success {
		return migDevice{}, r
	}
	g := parent.gpu
	g.ID, g.Parent = gpu.ID(uuid), parent.gpu.ID
	g.Units, g.Memory = int(attributes.SMs), gpu.MiB(attributes.MemoryMiB)
	gi, r1 := d.GPUInstance()
	ci, r2 := d.ComputeInstance()
	if r1 == nvml.Success && r2 == nvml.Success {
		g.MIG = fmt.Sprintf("%d/%d", gi, ci)
	}
	name, _ := d.Name()
	g.Profile = profileOf(name, attributes, parent.gpu.Memory)
	out := migDevice{handle: d, gpu: g}
	if parent.gpu.Units > 0 {
		out.fraction = float64(g.Units) / float64(parent.gpu.Units)
	}
	return out, nvml.Success
}

// profileOf returns the profile in a MIG device's name ("NVIDIA H100 MIG 1g.10gb"), or one made from
// the device's size if the name has none.
func profileOf(name string, a nvml.Attributes, whole gpu.MiB) string {
	if _, profile, ok := strings.Cut(name, " MIG "); ok && profile != "" {
		return strings.TrimSpace(profile)
	}
	gb := (a.MemoryMiB + 1023) / 1024
	if a.ComputeInstanceSlices != a.GPUInstanceSlices {
		return fmt.Sprintf("%dc.%dg.%dgb", a.ComputeInstanceSlices, a.GPUInstanceSlices, gb)
	}
	return fmt.Sprintf("%dg.%dgb", a.GPUInstanceSlices, gb)
}
