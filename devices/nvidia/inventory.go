package nvidia

import (
	"fmt"
	"slices"
	"strconv"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// reading is one round's reading of one physical GPU.
type reading struct {
	handle nvml.Device
	gpu    gpu.GPU
	minor  int
	// mig is set when the GPU is in MIG mode; devices are its MIG devices.
	mig     bool
	devices []migDevice
	// uncertain is set if a call for the MIG mode or devices failed temporarily, so that mig and
	// devices may be wrong.
	uncertain  bool
	slicing    share.Slicing
	indicators indicators
}

func (r reading) found() []share.Found {
	out := []share.Found{{GPU: r.gpu, Split: r.mig, Slicing: r.slicing}}
	for _, d := range r.devices {
		out = append(out, share.Found{GPU: d.gpu, Fraction: d.fraction,
			Slicing: share.Slicing{Why: "a MIG device serves only one task"},
			Part:    share.Part{Sharing: gpu.SharingMIG, Enforcement: gpu.EnforceMIG, Infix: "mig-", Common: d.common}})
	}
	return out
}

// read lists the GPUs that answer. It leaves out a lost GPU, which the plugin's loop keeps as
// unhealthy.
func (l *library) read() ([]reading, error) {
	release, err := l.acquire()
	if err != nil {
		return nil, err
	}
	readings, r := l.readAll()
	release()
	if r != nvml.Success {
		if fatalForLibrary(r) {
			l.close()
		}
		return nil, fmt.Errorf("NVML cannot count GPUs: %s", describe(r))
	}
	return readings, nil
}

func (l *library) readAll() ([]reading, nvml.Return) {
	count, r := l.nvml.DeviceCount()
	if r != nvml.Success {
		return nil, r
	}
	driver, _ := l.nvml.DriverVersion()
	cuda, _ := l.nvml.CUDADriverVersion()
	var out []reading
	l.left = ""
	for i, a := range l.askAll(count) {
		one, handle, r := a.one, a.handle, a.r
		before, known := l.last[i]
		if r == nvml.Success && before.gpu.ID != one.gpu.ID {
			before, known = l.before(one.gpu.ID) // the driver restarts its count
		}
		switch {
		case r == nvml.GPUIsLost, r != nvml.Success && !known:
			l.leaveOut(i, r)
			continue
		case r != nvml.Success:
			one = before
			one.indicators = indicators{probe: r, action: -1, hung: a.hung}
		case known && one.partial():
			now := one.indicators
			one = before
			one.indicators, one.gpu.Index = now, i
		case one.uncertain:
			// It may be in MIG mode. Offered as a whole GPU, it would get tasks in addition to
			// those on its MIG devices.
			l.leaveOut(i, nvml.Unknown)
			continue
		}
		one.handle = handle
		one.gpu.Driver, one.gpu.Runtime = driver, cudaText(cuda)
		for m := range one.devices {
			one.devices[m].gpu.Index = one.gpu.Index
			one.devices[m].gpu.Driver, one.devices[m].gpu.Runtime = driver, cudaText(cuda)
		}
		one.slicing = slicingOf(one.gpu.Target, cuda)
		if one.gpu.Memory == 0 {
			one.slicing.Memory = gpu.LevelNone // the host's memory, which nobody divides
		}
		out = append(out, one)
	}
	out = onlyOnce(out)
	l.keep(out)
	return out, nvml.Success
}

// onlyOnce drops a reading of the last round that was reused for an index, if its GPU was read at
// another index in this round.
func onlyOnce(readings []reading) []reading {
	answers := map[gpu.ID]bool{}
	for _, r := range readings {
		answers[r.gpu.ID] = answers[r.gpu.ID] || r.indicators.probe == nvml.Success
	}
	return slices.DeleteFunc(readings, func(r reading) bool {
		return r.indicators.probe != nvml.Success && answers[r.gpu.ID]
	})
}

// leaveOut records that a GPU is missing from the readings, and why.
func (l *library) leaveOut(index int, r nvml.Return) {
	if l.left != "" {
		l.left += "; "
	}
	l.left += fmt.Sprintf("GPU %d: %s", index, describe(r))
}

// before returns the last round's reading of a GPU.
func (l *library) before(id gpu.ID) (reading, bool) {
	for _, r := range l.last {
		if r.gpu.ID == id {
			return r, true
		}
	}
	return reading{}, false
}

// partial reports whether a call failed that reads a property which hardly ever changes. The last
// round's reading is then used instead.
func (r reading) partial() bool {
	g := r.gpu
	return r.uncertain || r.indicators.probe != nvml.Success || g.Model == "" || g.PCI == "" || g.Memory == 0 ||
		g.Target == ""
}

func cudaText(v int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10)
}

// describe reads one GPU. It fails if the GPU has no UUID or is lost.
func (l *library) describe(h nvml.Device, index int) (reading, nvml.Return) {
	uuid, r := h.UUID()
	if r != nvml.Success {
		return reading{}, r
	}
	out := reading{handle: h, minor: -1, gpu: gpu.GPU{ID: gpu.ID(uuid), Vendor: gpu.NVIDIA, Index: index, NUMANode: -1}}
	g := &out.gpu
	if name, r := h.Name(); r == nvml.Success {
		g.Model = name
	}
	if pci, r := h.PCI(); r == nvml.Success {
		g.PCI = addressOf(pci)
		g.PCIDevice = uint16(pci.ID >> 16)
	}
	g.Class = gpu.ClassOf(gpu.NVIDIA, g.PCIDevice, g.Model)
	g.NUMANode = numaNode(l.root, g.PCI)
	g.Memory = usable(h)
	g.Target, g.Units = compute(h)
	if minor, r := h.MinorNumber(); r == nvml.Success {
		out.minor = minor
	}
	out.indicators = indicatorsOf(h)
	if out.indicators.lost() {
		return reading{}, out.indicators.probe
	}
	of := l.linksOf(h, g.ID)
	g.Links, g.LinkSwitches = of.gpus, of.switches
	migOf(h, &out)
	return out, nvml.Success
}

// usable returns the memory that tasks can use, which excludes the driver's reserve. Only the second
// version of the call reports the reserve.
func usable(h nvml.Device) gpu.MiB {
	if m, r := h.Memory2(); r == nvml.Success {
		return gpu.MiBOf(m.Total - m.Reserved)
	}
	m, r := h.Memory()
	if r != nvml.Success {
		return 0
	}
	return gpu.MiBOf(m.Total)
}

// compute returns compute capability and SM count.
func compute(h nvml.Device) (target string, sms int) {
	major, minor, r := h.ComputeCapability()
	if r != nvml.Success {
		return "", 0
	}
	target = fmt.Sprintf("%d.%d", major, minor)
	if cores, r := h.Cores(); r == nvml.Success {
		sms = cores / coresPerSM(major, minor)
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
		return share.Slicing{Why: "the driver does not report its compute capability, which MPS depends on"}
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

// numaNode reads sysfs, which is also what Nomad compares with.
func numaNode(root, pci string) int {
	n, err := machine.Root(root).Number(machine.PCIDevices, pci, "numa_node")
	if err != nil {
		return -1
	}
	return int(n)
}
