package rack_test

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// inventory is what the probe of that name prints.
type inventory struct {
	Driver, CUDA string
	GPUs         []gpuSeen
}

type gpuSeen struct {
	UUID, Name, Compute, PCI string
	MiB, UsedMiB, SMs, Minor int
	Util                     int
	MIG                      []migSeen
}

type migSeen struct {
	UUID, Name, Parent string
	GI, CI, SMs, MiB   int
}

// probes run on an initialised library and print what they find as JSON.
var probes = map[string]func(lib nvml.Interface, print func(any)) error{
	"inventory": func(lib nvml.Interface, print func(any)) error {
		inv, err := takeInventory(lib)
		print(inv)
		return err
	},
	"events":    watchEvents,
	"calls":     callEverything,
	"processes": listProcesses,
	"others":    askAsOthers,
	"init":      func(_ nvml.Interface, print func(any)) error { print("Success"); return nil },
	"unguarded": func(lib nvml.Interface, print func(any)) error {
		d, _ := lib.DeviceGetHandleByIndex(0)
		_, r := d.GetNumGpuCores()
		print(nvml.ErrorString(r))
		return nil
	},
	"guarded": func(lib nvml.Interface, print func(any)) error {
		print(lib.Extensions().LookupSymbol("nvmlDeviceGetNumGpuCores") == nil)
		return nil
	},
}

func runProbe(name string) int {
	out := json.NewEncoder(os.Stdout)
	lib := nvml.New()
	r := lib.Init()
	switch {
	case r == nvml.ERROR_LIBRARY_NOT_FOUND:
		_ = out.Encode(r)
		if name == "shutdown" {
			lib.Shutdown()
		}
		return 0
	case r != nvml.SUCCESS:
		_ = out.Encode(nvml.ErrorString(r))
		return 0
	}
	if err := probes[name](lib, func(v any) { _ = out.Encode(v) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// must turns what NVML returned into an error that names the call.
func must(call string, r nvml.Return) error {
	if r == nvml.SUCCESS {
		return nil
	}
	return fmt.Errorf("%s: %s", call, nvml.ErrorString(r))
}

// coresPerSM by compute capability, as devices/nvidia has to know it.
func coresPerSM(major, minor int) int {
	if major == 7 || (major == 8 && minor == 0) {
		return 64
	}
	return 128
}

func takeInventory(lib nvml.Interface) (inventory, error) {
	var inv inventory
	var r nvml.Return
	if inv.Driver, r = lib.SystemGetDriverVersion(); r != nvml.SUCCESS {
		return inv, must("driver version", r)
	}
	cuda, r := lib.SystemGetCudaDriverVersion_v2()
	if r != nvml.SUCCESS {
		return inv, must("CUDA version", r)
	}
	inv.CUDA = fmt.Sprintf("%d.%d", cuda/1000, cuda%1000/10)
	n, r := lib.DeviceGetCount()
	if r != nvml.SUCCESS {
		return inv, must("count", r)
	}
	for i := range n {
		d, r := lib.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			return inv, must("handle", r)
		}
		g, err := seeGPU(d)
		if err != nil {
			return inv, err
		}
		inv.GPUs = append(inv.GPUs, g)
	}
	return inv, nil
}

func seeGPU(d nvml.Device) (g gpuSeen, err error) {
	var rs [8]nvml.Return
	g.UUID, rs[0] = d.GetUUID()
	g.Name, rs[1] = d.GetName()
	major, minor, r2 := d.GetCudaComputeCapability()
	memory, r3 := d.GetMemoryInfo_v2()
	cores, r4 := d.GetNumGpuCores()
	g.Minor, rs[5] = d.GetMinorNumber()
	pci, r6 := d.GetPciInfo()
	rs[2], rs[3], rs[4], rs[6] = r2, r3, r4, r6
	for i, r := range rs {
		if r != nvml.SUCCESS {
			return g, must(fmt.Sprintf("call %d on %s", i, g.UUID), r)
		}
	}
	g.Compute = fmt.Sprintf("%d.%d", major, minor)
	g.MiB, g.UsedMiB = int(memory.Total>>20), int(memory.Used>>20)
	g.SMs = cores / coresPerSM(major, minor)
	for _, b := range pci.BusId {
		if b == 0 {
			break
		}
		g.PCI += string(rune(b))
	}
	if u, r := d.GetUtilizationRates(); r == nvml.SUCCESS {
		g.Util = int(u.Gpu)
	}
	if mode, _, r := d.GetMigMode(); r != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		return g, nil
	}
	count, r := d.GetMaxMigDeviceCount()
	if r != nvml.SUCCESS {
		return g, must("MIG count", r)
	}
	for i := range count {
		m, r := d.GetMigDeviceHandleByIndex(i)
		if r == nvml.ERROR_NOT_FOUND {
			continue
		}
		seen, err := seeMIG(m)
		if err != nil {
			return g, err
		}
		g.MIG = append(g.MIG, seen)
	}
	return g, nil
}

func seeMIG(m nvml.Device) (s migSeen, err error) {
	var rs [6]nvml.Return
	s.UUID, rs[0] = m.GetUUID()
	s.Name, rs[1] = m.GetName()
	s.GI, rs[2] = m.GetGpuInstanceId()
	s.CI, rs[3] = m.GetComputeInstanceId()
	attributes, r4 := m.GetAttributes()
	parent, r5 := m.GetDeviceHandleFromMigDeviceHandle()
	rs[4], rs[5] = r4, r5
	for i, r := range rs {
		if r != nvml.SUCCESS {
			return s, must(fmt.Sprintf("call %d on %s", i, s.UUID), r)
		}
	}
	s.SMs, s.MiB = int(attributes.MultiprocessorCount), int(attributes.MemorySizeMB)
	s.Parent, _ = parent.GetUUID()
	return s, nil
}
