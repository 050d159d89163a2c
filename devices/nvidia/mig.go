package nvidia

import (
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"aliquot/internal/gpu"
)

type migDevice struct {
	handle   nvml.Device
	gpu      gpu.GPU
	fraction float64
	// common is the memory of its GPU instance where that has other compute instances.
	common gpu.MiB
}

// migOf reads the GPU's MIG mode and devices, and says where it is not sure of
// them: without its MIG devices a GPU would be offered as a whole.
func (l *library) migOf(h nvml.Device, out *reading) {
	if !l.has("nvmlDeviceGetMigMode") {
		return
	}
	mode, _, r := h.GetMigMode()
	if r != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		out.unsure = !sure(r)
		return
	}
	out.mig = true
	if !l.has("nvmlDeviceGetMaxMigDeviceCount") || !l.has("nvmlDeviceGetMigDeviceHandleByIndex") || !l.anyOf("nvmlDeviceGetAttributes") {
		return
	}
	most, r := h.GetMaxMigDeviceCount()
	if r != nvml.SUCCESS {
		out.unsure = !sure(r)
		return
	}
	for i := range most {
		d, r := h.GetMigDeviceHandleByIndex(i)
		var one migDevice
		if r == nvml.SUCCESS {
			one, r = l.migDevice(d, *out)
		}
		switch {
		case r == nvml.SUCCESS:
			out.devices = append(out.devices, one)
		case !sure(r):
			out.unsure = true
		}
	}
	apportion(out.devices)
}

// apportion divides the memory of a GPU instance among its compute instances by their
// SMs: each of them says all of it.
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

// sure tells whether a call's answer is one that stays: success, or that there is
// no such thing. Others fail for the moment.
func sure(r nvml.Return) bool {
	switch r {
	case nvml.SUCCESS, nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_NO_PERMISSION,
		nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_GPU_NOT_FOUND:
		return true
	}
	return false
}

func (l *library) migDevice(d nvml.Device, parent reading) (migDevice, nvml.Return) {
	uuid, r := d.GetUUID()
	if r != nvml.SUCCESS {
		return migDevice{}, r
	}
	attributes, r := d.GetAttributes()
	if r != nvml.SUCCESS {
		return migDevice{}, r
	}
	g := parent.gpu
	g.ID, g.Parent = gpu.ID(uuid), parent.gpu.ID
	g.Units, g.Memory = int(attributes.MultiprocessorCount), gpu.MiB(attributes.MemorySizeMB)
	if l.has("nvmlDeviceGetGpuInstanceId") && l.has("nvmlDeviceGetComputeInstanceId") {
		gi, r1 := d.GetGpuInstanceId()
		ci, r2 := d.GetComputeInstanceId()
		if r1 == nvml.SUCCESS && r2 == nvml.SUCCESS {
			g.MIG = fmt.Sprintf("%d/%d", gi, ci)
		}
	}
	name, _ := d.GetName()
	g.Profile = profileOf(name, attributes, parent.gpu.Memory)
	out := migDevice{handle: d, gpu: g}
	if parent.gpu.Units > 0 {
		out.fraction = float64(g.Units) / float64(parent.gpu.Units)
	}
	return out, nvml.SUCCESS
}

// profileOf is the profile in a MIG device's name ("NVIDIA H100 MIG 1g.10gb"), or
// one made from its size where the name has none.
func profileOf(name string, a nvml.DeviceAttributes, whole gpu.MiB) string {
	if _, profile, ok := strings.Cut(name, " MIG "); ok && profile != "" {
		return strings.TrimSpace(profile)
	}
	gb := (a.MemorySizeMB + 1023) / 1024
	if a.ComputeInstanceSliceCount != a.GpuInstanceSliceCount {
		return fmt.Sprintf("%dc.%dg.%dgb", a.ComputeInstanceSliceCount, a.GpuInstanceSliceCount, gb)
	}
	return fmt.Sprintf("%dg.%dgb", a.GpuInstanceSliceCount, gb)
}
