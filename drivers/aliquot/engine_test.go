package aliquot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerapi "github.com/docker/docker/api/types/container"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// mpsGrant is a grant of slices of the first GPU of the tree.
func mpsGrant(pipe string) gpu.Grant {
	return gpu.Grant{
		Vendor: gpu.NVIDIA, Group: "h100-0", Class: "h100", Model: "NVIDIA H100 80GB HBM3",
		GPUs: []gpu.ID{"GPU-1"}, PCI: []string{"0000:1b:00.0"}, Slices: 6, Total: 20, Instances: []string{"GPU-1::00of20"},
		Memory: 24467, Units: 39, Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, MemoryEnforcement: gpu.LevelCooperative,
		Target: "9.0", Driver: "550.54.15", Runtime: "12.4", Weight: 0.3, Pipe: pipe,
	}
}

// reserved is the environment that the device plugin's Reserve returns.
func reserved(g gpu.Grant) map[string]string {
	env := g.Env()
	if g.Vendor == gpu.NVIDIA {
		env["NVIDIA_VISIBLE_DEVICES"], env["CUDA_VISIBLE_DEVICES"] = string(g.GPUs[0]), "0"
	}
	if g.Sharing == gpu.SharingMPS {
		env["CUDA_MPS_PIPE_DIRECTORY"] = g.Pipe
		env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "30"
		env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = "0=24467M"
	}
	return env
}

func pipeDir(t *testing.T, run string) string {
	t.Helper()
	pipe := filepath.Join(run, "mps/GPU-1/pipe")
	if err := os.MkdirAll(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pipe, "control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return pipe
}

func driverConfig(root, run, rest string) string {
	return fmt.Sprintf(`{"root": %q, "run_dir": %q, "gc": [{"image": false}] %s}`, root, run, rest)
}

func has(mounts []string, path string) bool {
	return slices.ContainsFunc(mounts, func(m string) bool { return strings.HasPrefix(m, path+" ") })
}

func TestContainerGetsImageLimitsAndOnlyItsNodes(t *testing.T) {
	c := engine(t)
	run := t.TempDir()
	pipe := pipeDir(t, run)
	tree := nvidiaTree(t)
	tree.file("usr/lib/x86_64-linux-gnu/libcuda.so.1", "stands in")
	probeImage(t, c, "aliquot-test:nvidia", "aliquot-test:cpu")
	s := ship(t, driverConfig(tree.dir, run, ""))
	job := s.job(`{"image": "aliquot-test", "image_tag_by_hardware": true, "args": ["stay"]}`, reserved(mpsGrant(pipe)), map[string]string{
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=80G", "NVIDIA_VISIBLE_DEVICES": "all", "OWN": "kept",
	})
	s.run(job)
	seen := s.seen(t, job)
	for k, want := range map[string]string{
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=24467M",
		"CUDA_MPS_PIPE_DIRECTORY": pipe, "ALIQUOT_SLICES": "6", "OWN": "kept", "NVIDIA_VISIBLE_DEVICES": "void",
	} {
		if seen.Env[k] != want {
			t.Errorf("%s = %q, want %q", k, seen.Env[k], want)
		}
	}
	if want := []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidiactl"}; !slices.Equal(seen.Nodes, want) {
		t.Errorf("nodes %v, want %v", seen.Nodes, want)
	}
	for _, path := range []string{pipe + " rw", "/usr/lib/x86_64-linux-gnu/libcuda.so.1 ro", "/usr/lib64/libcuda.so.1 ro"} {
		if !slices.Contains(seen.Mounts, path) {
			t.Errorf("%s is not mounted: %v", path, seen.Mounts)
		}
	}
	e := s.event(t, "image aliquot-test:nvidia on h100-0 GPU-1", "6 of 20 slices (30% of its compute units), 24467 MiB", "mps-percentage (cooperative)", "attached by nodes")
	if e.AllocID != job.AllocID || e.Annotations["slices"] != "6 of 20" {
		t.Errorf("event %+v", e)
	}
}

func TestTaskWithoutGrantGetsNoGPU(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:cpu")
	s := ship(t, driverConfig(nvidiaTree(t).dir, t.TempDir(), ""))
	job := s.job(`{"images": [{"cuda": "none:1", "cpu": "aliquot-test:cpu"}], "args": ["stay"]}`, nil, nil)
	s.run(job)
	seen := s.seen(t, job)
	if len(seen.Nodes) != 0 || seen.Env["NVIDIA_VISIBLE_DEVICES"] != "void" {
		t.Errorf("nodes %v, NVIDIA_VISIBLE_DEVICES %q", seen.Nodes, seen.Env["NVIDIA_VISIBLE_DEVICES"])
	}
	s.event(t, "image aliquot-test:cpu, no GPU granted")
}

func TestVariantOverridesEnvironmentAndArguments(t *testing.T) {
	c := engine(t)
	run := t.TempDir()
	probeImage(t, c, "aliquot-test:hopper")
	s := ship(t, driverConfig(nvidiaTree(t).dir, run, ""))
	job := s.job(`{"args": ["stay"], "variant": [
		{"ampere": [{"image": "none:1", "constraint": [{"attribute": "compute_capability", "version": "~> 8.0"}]}]},
		{"hopper": [{"image": "aliquot-test:hopper", "vendor": "nvidia", "args": ["stay", "fp8"], "env": [{"MODE": "fp8", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100"}],
		  "constraint": [{"attribute": "memory", "operator": ">=", "value": "20 GiB"}]}]}]}`, reserved(mpsGrant(pipeDir(t, run))), nil)
	s.run(job)
	seen := s.seen(t, job)
	if !slices.Equal(seen.Args, []string{"stay", "fp8"}) || seen.Env["MODE"] != "fp8" || seen.Env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] != "30" {
		t.Errorf("got %v, %v", seen.Args, seen.Env)
	}
	s.event(t, `variant "hopper"`)
}

func TestMIGDeviceGetsItsCapabilitiesOnly(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:1")
	s := ship(t, driverConfig(nvidiaTree(t).dir, t.TempDir(), ""))
	g := mpsGrant("")
	g.Group, g.GPUs, g.MIG, g.Sharing, g.Enforcement, g.Slices, g.Total = "a100-mig-1g.10gb", []gpu.ID{"MIG-a"}, []string{"7/0"}, gpu.SharingMIG, gpu.EnforceMIG, 1, 1
	job := s.job(`{"image": "aliquot-test:1", "args": ["open", "/dev/nvidia0"]}`, reserved(g), nil)
	s.run(job)
	want := []string{"/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidiactl"}
	if seen := s.seen(t, job); !slices.Equal(seen.Nodes, want) {
		t.Errorf("nodes %v, want %v", seen.Nodes, want)
	}
	s.event(t, "GPU attachment verified", "has opened a100-mig-1g.10gb (MIG-a)")
}

func TestAMDPartitionGetsItsRenderNodeOnly(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:amd")
	s := ship(t, driverConfig(amdTree(t).dir, t.TempDir(), ""))
	g := gpu.Grant{
		Vendor: gpu.AMD, Group: "mi300x-cpx-nps4", GPUs: []gpu.ID{"0000:c1:00.0-p1"}, PCI: []string{"0000:c1:00.0"}, Slices: 1, Total: 1,
		Memory: 24576, Sharing: gpu.SharingPartition, Enforcement: gpu.EnforcePartition, Target: "gfx942",
	}
	env := reserved(g)
	env["ROCR_VISIBLE_DEVICES"], env["HSA_CU_MASK"] = "0", "0:0-18"
	job := s.job(`{"images": [{"rocm": "aliquot-test:amd"}], "args": ["stay"]}`, env, map[string]string{"HSA_CU_MASK": "0:0-37"})
	job.User = "1000:1000"
	s.run(job)
	seen := s.seen(t, job)
	if want := []string{"/dev/dri/renderD129", "/dev/kfd"}; !slices.Equal(seen.Nodes, want) {
		t.Errorf("nodes %v, want %v", seen.Nodes, want)
	}
	if seen.Env["HSA_CU_MASK"] != "0:0-18" {
		t.Errorf("HSA_CU_MASK is %q", seen.Env["HSA_CU_MASK"])
	}
	for _, gid := range []int{44, 992} {
		if !slices.Contains(seen.Groups, gid) {
			t.Errorf("groups %v, want %d among them", seen.Groups, gid)
		}
	}
}

func TestRestartedDriverRecoversAndRestartedTaskKeepsItsGPU(t *testing.T) {
	c := engine(t)
	run := t.TempDir()
	pipe := pipeDir(t, run)
	probeImage(t, c, "aliquot-test:1")
	s := ship(t, driverConfig(nvidiaTree(t).dir, run, ""))
	job := s.job(`{"image": "aliquot-test:1", "args": ["stay"]}`, reserved(mpsGrant(pipe)), nil)
	handle := s.run(job)
	s.seen(t, job)
	s.relaunch()
	// Nomad rebuilds the configuration and may not have the device's environment
	// again when it recovers a task.
	bare := job.Copy()
	bare.DeviceEnv = nil
	handle.Config = bare
	if err := s.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	status, err := s.InspectTask(job.ID)
	if err != nil || status.State != drivers.TaskStateRunning {
		t.Fatalf("%+v, %v", status, err)
	}
	if err := s.StopTask(job.ID, time.Second, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if err := s.DestroyTask(job.ID, true); err != nil {
		t.Fatal(err)
	}
	again := s.job(`{"image": "aliquot-test:1", "args": ["stay"]}`, reserved(mpsGrant(pipe)), nil)
	s.run(again)
	seen := s.seen(t, again)
	if !slices.Contains(seen.Nodes, "/dev/nvidia0") || !has(seen.Mounts, pipe) || seen.Env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] != "30" {
		t.Errorf("nodes %v, mounts %v", seen.Nodes, seen.Mounts)
	}
}

func TestContainerRemovedByAnotherIsExplained(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:1")
	s := ship(t, driverConfig("/", t.TempDir(), ""))
	job := s.job(`{"image": "aliquot-test:1", "args": ["stay"]}`, nil, nil)
	s.run(job)
	s.seen(t, job)
	// As a stock docker driver's reconciler does.
	remove := func() error {
		return c.ContainerRemove(context.Background(), "task-"+job.AllocID, containerapi.RemoveOptions{Force: true})
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	s.event(t, "was killed by another client of the container engine", "dangling_containers { enabled = false }")
}

func TestStopIsNoForeignKill(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:1")
	s := ship(t, driverConfig("/", t.TempDir(), ""))
	job := s.job(`{"image": "aliquot-test:1", "args": ["stay"]}`, nil, nil)
	s.run(job)
	s.seen(t, job)
	exit, err := s.WaitTask(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StopTask(job.ID, time.Second, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	<-exit
	other := s.job(`{"image": "aliquot-test:1", "args": ["exit"]}`, nil, nil)
	s.run(other)
	s.event(t, "no GPU granted")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if strings.Contains(e.Message, "another client") {
			t.Errorf("event %q", e.Message)
		}
	}
}

func TestFingerprintLeavesTheDockerDriversAttributesAlone(t *testing.T) {
	s := ship(t, driverConfig("/", t.TempDir(), ""))
	ch, err := s.Fingerprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fp := <-ch
	for name := range fp.Attributes {
		if !strings.HasPrefix(name, "driver.aliquot") {
			t.Errorf("attribute %s", name)
		}
	}
	for _, want := range []string{"driver.aliquot", "driver.aliquot.version", "driver.aliquot.engine_version", "driver.aliquot.attach", "driver.aliquot.runtimes", "driver.aliquot.dangling_containers"} {
		if fp.Attributes[want] == nil {
			t.Errorf("no attribute %s in %v", want, fp.Attributes)
		}
	}
}

func TestErrorsOfAStartAreOneLine(t *testing.T) {
	run := t.TempDir()
	s := ship(t, driverConfig(nvidiaTree(t).dir, run, ""))
	// The directory stays when the GPU's daemon has ended.
	lost := mpsGrant(filepath.Join(run, "mps/GPU-1/pipe"))
	if err := os.MkdirAll(lost.Pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := mpsGrant("/etc")
	gone := mpsGrant(pipeDir(t, t.TempDir()))
	gone.PCI = []string{"0000:99:00.0"}
	two := reserved(lost)
	two["ALIQUOT_GRANT_NVIDIA_T4_1"] = "t4-1"
	for _, c := range []struct {
		config, want string
		env          map[string]string
	}{
		{`{"image": "x:1", "images": [{"cuda": "y"}]}`, "image and images are both set", nil},
		{`{"image": "x:1", "image_tag_by_hardware": true}`, "already has a tag or digest", nil},
		{`{"variant": [{"a": [{"image": "x", "vendor": "amd"}]}]}`, `no variant fits a task without a GPU: "a" is for vendor amd`, nil},
		{`{"variant": [{"a": [{"imag": "x"}]}]}`, `variant "a": "imag" is unknown`, nil},
		{`{"variant": [{"a": [{"image": "x"}]}, {"a": [{"image": "y"}]}]}`, `variant "a" is defined twice`, nil},
		{`{"image": "x:1", "attachment_timeout": "soon"}`, `attachment_timeout is "soon"`, nil},
		{`{"image": "x:1"}`, "its MPS daemon is not running", reserved(lost)},
		{`{"image": "x:1"}`, "is not below run_dir", reserved(outside)},
		{`{"image": "x:1"}`, "does not know GPU GPU-1 at 0000:99:00.0", reserved(gone)},
		{`{"image": "x:1"}`, "the task has 2 GPU grants", two},
		{`{"images": [{"rocm": "x"}]}`, "images has no cuda for nvidia h100-0", reserved(lost)},
	} {
		_, _, err := s.StartTask(s.job(c.config, c.env, nil))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}
