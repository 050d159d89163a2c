package nvidia_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

func names(gs groups) []string {
	var out []string
	for _, g := range gs {
		out = append(out, fmt.Sprintf("%s:%d", g.Name, len(g.Devices)))
	}
	return out
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rack, config string
		want         []string
	}{
		{"h100-t4", ``, []string{"h100-0:20", "t4-1:20"}},
		{"h100-t4", `gpu "*" { slices = 4 } gpu "t4" { mode = "whole" }`, []string{"h100-0:4", "t4:1"}},
		{"h100-t4", `gpu "*" { mode = "off" } gpu "1" { slices = 10 }`, []string{"t4-1:10"}},
		{"h100-t4", `gpu "*" { slices = 100 }`, []string{"h100-0:60", "t4-1:60"}},
		{"8xh100", `gpu "*" { mode = "whole" } gpu "3" { slices = 2 }`, []string{"h100:7", "h100-3:2"}},
		{"a100-mig", `gpu "*" { mode = "mig" }`, []string{"a100-40gb-mig-3g.20gb:1", "a100-40gb-mig-2g.10gb:1", "a100-40gb-mig-1g.5gb:2"}},
		{"a100-mig", ``, []string{"a100-40gb-mig-3g.20gb:1", "a100-40gb-mig-2g.10gb:1", "a100-40gb-mig-1g.5gb:2"}},
	} {
		b := newBench(t, c.rack)
		got := names(until(t, b.plugin(t, strings.ReplaceAll(c.config, "} gpu", "}\ngpu")), "healthy", allWell))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s with %q: %v, want %v", c.rack, c.config, got, c.want)
		}
	}
}

func TestMIGGrantAndFault(t *testing.T) {
	t.Parallel()
	b := newBench(t, "a100-mig")
	c := b.plugin(t, "return_mounts = true\n"+`gpu "*" { mode = "mig" }`)
	gs := until(t, c, "healthy", allWell)
	small := named(gs, "a100-40gb-mig-1g.5gb")
	r, err := c.Reserve([]string{small.Devices[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	grant, _, err := gpu.ParseGrant(r.Envs)
	if err != nil || len(grant.MIG) != 1 || grant.Sharing != gpu.SharingMIG || grant.Memory != 4864 || grant.Units != 14 || r.Envs["CUDA_VISIBLE_DEVICES"] != small.Devices[0].ID {
		t.Errorf("%+v, %v", grant, err)
	}
	var nodes []string
	for _, d := range r.Devices {
		nodes = append(nodes, d.TaskPath)
	}
	caps := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return !strings.HasPrefix(n, "/dev/nvidia-caps/nvidia-cap") })
	if len(caps) != 2 || !slices.Contains(nodes, "/dev/nvidia0") || !slices.Contains(nodes, "/dev/nvidiactl") {
		t.Errorf("device nodes %v", nodes)
	}
	// A fault that names a MIG device takes that one alone.
	gi, ci, _ := strings.Cut(grant.MIG[0], "/")
	if err := b.XID(b.uuids(t)[0], 95, "gi="+gi, "ci="+ci); err != nil {
		t.Fatal(err)
	}
	until(t, c, "XID 95 on one MIG device", func(gs groups) bool {
		sick := 0
		for _, g := range gs {
			for _, d := range g.Devices {
				if !d.Healthy {
					sick++
					if d.ID != small.Devices[0].ID {
						return false
					}
				}
			}
		}
		return sick == 1
	})
	until(t, c, "recovery", allWell)
	if err := b.XID(b.uuids(t)[0], 79); err != nil {
		t.Fatal(err)
	}
	until(t, c, "XID 79 on all", func(gs groups) bool {
		return len(gs) == 3 && !slices.ContainsFunc(gs, func(g *device.DeviceGroup) bool {
			return slices.ContainsFunc(g.Devices, func(d *device.Device) bool { return d.Healthy })
		})
	})
}

func TestReturnMounts(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "return_mounts = true")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	r, err := c.Reserve([]string{g.Devices[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	pipe := b.control(b.uuids(t)[0]).Pipe
	shm := b.shm(b.uuids(t)[0])
	if len(r.Mounts) != 2 || *r.Mounts[0] != (device.Mount{HostPath: pipe, TaskPath: pipe}) || *r.Mounts[1] != (device.Mount{HostPath: shm, TaskPath: "/dev/shm"}) {
		t.Errorf("mounts %+v, want %s and %s at /dev/shm", r.Mounts, pipe, shm)
	}
	for _, d := range r.Devices {
		if d.HostPath != filepath.Join(b.root, d.TaskPath) {
			t.Errorf("device %+v", d)
		}
	}
	if len(r.Devices) < 2 {
		t.Errorf("%d device nodes", len(r.Devices))
	}
}

func TestAttributesCarryLocality(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	gs := until(t, b.plugin(t, ""), "healthy", allWell)
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range gs {
		want := f.GPUs[i]
		if got := *g.Attributes["pci"].String; got != want.PCI() || g.Devices[0].HwLocality.PciBusID != want.PCI() {
			t.Errorf("%s: pci %q, want %q", g.Name, got, want.PCI())
		}
		if got := *g.Attributes["numa_node"].Int; got != int64(want.Int("numa")) {
			t.Errorf("%s: NUMA node %d, want %d", g.Name, got, want.Int("numa"))
		}
		if got := *g.Attributes["units"].Int; got != int64(want.Int("sms")) {
			t.Errorf("%s: %d SMs, want %d", g.Name, got, want.Int("sms"))
		}
		if got := *g.Attributes["memory"].Int; got != int64(want.Int("memory_mib")-want.Int("reserved_mib")) {
			t.Errorf("%s: %d MiB", g.Name, got)
		}
	}
}

// optional are the functions that old drivers lack. The plugin must not call one
// that is not there: the process would end with exit code 127.
var optional = []string{
	"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPagesPendingStatus", "nvmlDeviceGetSramEccErrorStatus",
	"nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetFieldValues", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMinorNumber",
	"nvmlDeviceGetNumGpuCores", "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetPowerState", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature",
	"nvmlDeviceGetClockInfo", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetMPSComputeRunningProcesses",
	"nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents",
}

func TestOldDriverIsServedWithoutWhatItLacks(t *testing.T) {
	t.Parallel()
	needCompiler(t)
	dir := t.TempDir()
	old, err := rack.Build(context.Background(), dir, optional...)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, "h100-t4")
	env := without(b.env(), "LD_LIBRARY_PATH")
	c := b.follow(t, append(env, "LD_LIBRARY_PATH="+old.Lib),
		fmt.Sprintf("library = %q\n", filepath.Join(old.Lib, "libnvidia-ml.so.1"))+b.config(""))
	g := named(until(t, c, "healthy", allWell), "h100-0")
	reserve(t, c, g, 0, 3)
	stream, err := c.Stats(t.Context(), 1e9)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-stream; r == nil || r.Error != nil || len(r.Groups) != 2 {
		t.Errorf("%+v", r)
	}
	// Without events an uncorrected ECC error is found by polling.
	if err := b.Lose(b.uuids(t)[1]); err != nil {
		t.Fatal(err)
	}
	until(t, c, "a lost GPU", func(gs groups) bool { ok, _ := health(named(gs, "t4-1")); return !ok })
}

func TestConfigErrorsOfNVIDIA(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	for text, want := range map[string][]string{
		`xid_ignore = ["13", "many"]`:                            {"xid_ignore", "many", "numbers"},
		`recovery_period = "0s"`:                                 {"recovery_period", "0s", "duration"},
		`remap_pending = "maybe"`:                                {"remap_pending", "maybe", "unhealthy, ignore"},
		`mps_multi_user = "both"`:                                {"mps_multi_user", "both", "true or false"},
		`mps_shm_size = "0%"`:                                    {"mps_shm_size", "0%", "25%"},
		"gpu \"H100\" {}\ngpu \"h100\" {}":                       {"h100", "H100", "keep one"},
		`gpu "*" { partition = "x" }`:                            {"partition"},
		`slices = 3`:                                             {"slices"},
		fmt.Sprintf("run_dir = %q", "/"+strings.Repeat("r", 60)): {"run_dir", "rrr", "49"},
	} {
		c, err := b.launch(t, b.env(), text)
		if err == nil {
			c.stop()
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", text, err, w)
			}
		}
	}
}

// TestNoAssumedEnvironment pins the variables that a task gets: others build on
// their names.
func TestNoAssumedEnvironment(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	envs := reserve(t, c, g, 0, 5)
	uuid := b.uuids(t)[0]
	memory := *g.Attributes["memory"].Int / 4
	for key, want := range map[string]string{
		"NVIDIA_VISIBLE_DEVICES": uuid, "CUDA_VISIBLE_DEVICES": uuid, "CUDA_MPS_PIPE_DIRECTORY": b.control(uuid).Pipe,
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": fmt.Sprintf("0=%dM", memory), "ALIQUOT_MPS_PIPE": b.control(uuid).Pipe,
		"ALIQUOT_GPU_CLASS": "t4", "ALIQUOT_SLICES": "5", "ALIQUOT_SLICES_TOTAL": "20",
	} {
		if envs[key] != want {
			t.Errorf("%s=%q, want %q", key, envs[key], want)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(envs)) {
		if !strings.HasPrefix(key, "ALIQUOT_") && !strings.HasPrefix(key, "CUDA_") && !strings.HasPrefix(key, "NVIDIA_") {
			t.Errorf("unexpected variable %s", key)
		}
	}
}

// TestComputeInstancesShareTheirMemory: it is counted once and not called held.
func TestComputeInstancesShareTheirMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h200-mig")
	gs := until(t, b.plugin(t, `gpu "*" { mode = "mig" }`), "healthy", allWell)
	sum := int64(0)
	for _, g := range gs {
		sum += *g.Attributes["memory"].Int * int64(len(g.Devices))
		held, common := *g.Attributes["memory_enforcement"].String, g.Attributes["memory_in_common"]
		if shared := strings.Contains(g.Name, "c.3g"); shared != (held == "none") || shared != (common != nil && *common.Int == 71424) {
			t.Errorf("%s: memory is held %s, in common %v", g.Name, held, common)
		}
	}
	if sum > 71424+33280+2*16384 {
		t.Errorf("all MIG devices have %d MiB together", sum)
	}
}
