package nvidia

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

// reading is what one round learned of one physical GPU.
type reading struct {
	handle nvml.Device
	gpu    gpu.GPU
	minor  int
	// mig tells that the GPU is in MIG mode; devices are its MIG devices.
	mig     bool
	devices []migDevice
	slicing share.Slicing
	vitals  vitals
}

type migDevice struct {
	handle   nvml.Device
	gpu      gpu.GPU
	fraction float64
}

func (r reading) found() []share.Found {
	out := []share.Found{{GPU: r.gpu, Split: r.mig, Slicing: r.slicing}}
	for _, d := range r.devices {
		out = append(out, share.Found{GPU: d.gpu, Fraction: d.fraction,
			Slicing: share.Slicing{Why: "a MIG device is given to one task"}})
	}
	return out
}

// read lists the GPUs that answer. A GPU that is lost is left out: the skeleton
// keeps it, as unhealthy.
func (l *library) read() ([]reading, error) {
	release, err := l.acquire()
	if err != nil {
		return nil, err
	}
	readings, r := l.readAll()
	release()
	if r != nvml.SUCCESS {
		if fatalForLibrary(r) {
			l.close()
		}
		return nil, fmt.Errorf("NVML cannot count GPUs: %s", describe(r))
	}
	return readings, nil
}

func (l *library) readAll() ([]reading, nvml.Return) {
	count, r := l.nvml.DeviceGetCount()
	if r != nvml.SUCCESS {
		return nil, r
	}
	driver, _ := l.nvml.SystemGetDriverVersion()
	cuda := 0
	if l.anyOf("nvmlSystemGetCudaDriverVersion") {
		cuda = l.cudaVersion()
	}
	var out []reading
	for i := range count {
		handle, r := l.nvml.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			continue
		}
		one, r := l.describe(handle, i)
		before, known := l.last[i]
		switch {
		case r == nvml.ERROR_GPU_IS_LOST, r != nvml.SUCCESS && !known:
			continue
		case r != nvml.SUCCESS:
			one = before
			one.vitals = vitals{probe: r, action: -1}
		case known && one.gpu.ID == before.gpu.ID && one.partial():
			now := one.vitals
			one = before
			one.vitals = now
		}
		one.handle = handle
		one.gpu.Driver, one.gpu.Runtime = driver, cudaText(cuda)
		for m := range one.devices {
			one.devices[m].gpu.Driver, one.devices[m].gpu.Runtime = driver, cudaText(cuda)
		}
		one.slicing = slicingOf(one.gpu.Target, cuda)
		out = append(out, one)
	}
	l.keep(out)
	return out, nvml.SUCCESS
}

// partial tells that a call failed which tells what does not change: the GPU is
// then described as it was before.
func (r reading) partial() bool {
	g := r.gpu
	return r.vitals.probe != nvml.SUCCESS || g.Model == "" || g.PCI == "" || g.Memory == 0 || g.Target == ""
}

// cudaVersion is 1000*major + 10*minor, 0 when unknown.
func (l *library) cudaVersion() int {
	if l.has("nvmlSystemGetCudaDriverVersion_v2") {
		if v, r := l.nvml.SystemGetCudaDriverVersion_v2(); r == nvml.SUCCESS {
			return v
		}
	}
	if l.has("nvmlSystemGetCudaDriverVersion") {
		if v, r := l.nvml.SystemGetCudaDriverVersion(); r == nvml.SUCCESS {
			return v
		}
	}
	return 0
}

func cudaText(v int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10)
}

// describe reads one GPU. It fails where the GPU does not even tell its UUID.
func (l *library) describe(h nvml.Device, index int) (reading, nvml.Return) {
	uuid, r := h.GetUUID()
	if r != nvml.SUCCESS {
		return reading{}, r
	}
	out := reading{handle: h, minor: -1, gpu: gpu.GPU{ID: gpu.ID(uuid), Vendor: gpu.NVIDIA, Index: index, NUMANode: -1}}
	g := &out.gpu
	if name, r := h.GetName(); r == nvml.SUCCESS {
		g.Model = name
	}
	if pci, r := h.GetPciInfo(); r == nvml.SUCCESS {
		g.PCI = fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device)
		g.PCIDevice = uint16(pci.PciDeviceId >> 16)
	}
	g.Class = gpu.ClassOf(gpu.NVIDIA, g.PCIDevice, g.Model)
	g.NUMANode = numaNode(l.root, g.PCI)
	g.Memory = l.usable(h)
	g.Target, g.Units = l.compute(h)
	if l.has("nvmlDeviceGetMinorNumber") {
		if minor, r := h.GetMinorNumber(); r == nvml.SUCCESS {
			out.minor = minor
		}
	}
	out.vitals = l.vitalsOf(h)
	if out.vitals.lost() {
		return reading{}, out.vitals.probe
	}
	l.migOf(h, &out)
	return out, nvml.SUCCESS
}

// usable is the memory that tasks can use: without what the driver reserves,
// which only the second version of the call tells.
func (l *library) usable(h nvml.Device) gpu.MiB {
	if l.has("nvmlDeviceGetMemoryInfo_v2") {
		if m, r := h.GetMemoryInfo_v2(); r == nvml.SUCCESS {
			return gpu.MiBOf(m.Total - m.Reserved)
		}
	}
	m, r := h.GetMemoryInfo()
	if r != nvml.SUCCESS {
		return 0
	}
	return gpu.MiBOf(m.Total)
}

// compute returns compute capability and SM count.
func (l *library) compute(h nvml.Device) (target string, sms int) {
	if !l.has("nvmlDeviceGetCudaComputeCapability") {
		return "", 0
	}
	major, minor, r := h.GetCudaComputeCapability()
	if r != nvml.SUCCESS {
		return "", 0
	}
	target = fmt.Sprintf("%d.%d", major, minor)
	if l.has("nvmlDeviceGetNumGpuCores") {
		if cores, r := h.GetNumGpuCores(); r == nvml.SUCCESS {
			sms = cores / coresPerSM(major, minor)
		}
	}
	return target, sms
}

// coresPerSM is the number of FP32 cores of one SM. Source: CUDA C++ Programming
// Guide, "Compute Capabilities".
func coresPerSM(major, minor int) int {
	switch {
	case major == 3:
		return 192
	case major == 6 && minor == 0, major == 7, major == 8 && minor == 0:
		return 64
	default:
		return 128
	}
}

// slicingOf says how MPS can share a GPU. Source of the limits: NVIDIA MPS
// documentation, "Limitations"; Volta is compute capability 7.0.
func slicingOf(target string, cuda int) share.Slicing {
	cc, err := strconv.ParseFloat(target, 64)
	s := share.Slicing{Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, Memory: gpu.LevelCooperative}
	switch {
	case err != nil:
		return share.Slicing{Why: "the driver does not tell its compute capability, which MPS depends on"}
	case cc < 3.5:
		return share.Slicing{Why: "MPS needs compute capability 3.5 and the GPU has " + target}
	case cc < 7:
		// Limits of a client's SMs and memory came with Volta's MPS.
		s.Enforcement, s.Memory = gpu.EnforceNone, gpu.LevelNone
		s.Max, s.Why = 16, "MPS serves at most 16 clients before Volta"
	case cuda >= 13010:
		s.Max, s.Why = 60, "MPS serves at most 60 clients"
	default:
		s.Max, s.Why = 48, "MPS serves at most 48 clients before CUDA 13.1"
	}
	return s
}

func (l *library) migOf(h nvml.Device, out *reading) {
	if !l.has("nvmlDeviceGetMigMode") {
		return
	}
	mode, _, r := h.GetMigMode()
	if r != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		return
	}
	out.mig = true
	if !l.has("nvmlDeviceGetMaxMigDeviceCount") || !l.has("nvmlDeviceGetMigDeviceHandleByIndex") || !l.anyOf("nvmlDeviceGetAttributes") {
		return
	}
	most, r := h.GetMaxMigDeviceCount()
	if r != nvml.SUCCESS {
		return
	}
	for i := range most {
		d, r := h.GetMigDeviceHandleByIndex(i)
		if r != nvml.SUCCESS {
			continue
		}
		if one, ok := l.migDevice(d, *out); ok {
			out.devices = append(out.devices, one)
		}
	}
}

func (l *library) migDevice(d nvml.Device, parent reading) (migDevice, bool) {
	uuid, r := d.GetUUID()
	if r != nvml.SUCCESS {
		return migDevice{}, false
	}
	attributes, r := d.GetAttributes()
	if r != nvml.SUCCESS {
		return migDevice{}, false
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
	return out, true
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

// numaNode reads sysfs, which is also what Nomad compares with.
func numaNode(root, pci string) int {
	text, err := os.ReadFile(filepath.Join(root, "sys/bus/pci/devices", pci, "numa_node"))
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return -1
	}
	return n
}
