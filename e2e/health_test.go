package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
)

// Executables of the rack's MPS.
const (
	mpsControl = "nvidia-cuda-mps-control"
	mpsServer  = "nvidia-cuda-mps-server"
)

// TestHealth breaks one of two GPUs in several ways, and repairs it each time before the next.
func TestHealth(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4", Device: `recovery_period = "2s"`})
	t.Run("XID on one GPU of two", func(t *testing.T) { xid(ctx, t, c) })
	t.Run("MPS daemon killed", func(t *testing.T) { mpsKilled(ctx, t, c) })
	t.Run("MPS fault and recovery", func(t *testing.T) { mpsFault(ctx, t, c) })
	t.Run("a task that quits MPS", func(t *testing.T) { mpsQuit(ctx, t, c) })
	t.Run("shared memory of a GPU", func(t *testing.T) { sharedMemory(ctx, t, c) })
	t.Run("libraries of another release", func(t *testing.T) { mismatch(ctx, t, c) })
	t.Run("plugin killed", func(t *testing.T) { pluginKilled(ctx, t, c) })
}

// xid loses the H100 with XID 79 ("GPU has fallen off the bus").
func xid(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "xid", nil), 2)
	if err := c.Rack.XID(uuid(t, c, h100), 79); err != nil {
		t.Fatal(err)
	}
	if err := c.Rack.Lose(uuid(t, c, h100)); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "t4-1", 20); err != nil {
		t.Error("the other GPU must stay healthy:", err)
	}
	describes(t, c, "h100-0", "XID 79")
	// Nomad keeps running tasks and places new ones elsewhere.
	for _, alloc := range allocs {
		info, _, err := c.Nomad.Allocations().Info(alloc.ID, nil)
		if err != nil || info.DesiredStatus != "run" {
			t.Errorf("%s is to %s (%v), want it left to run", alloc.Name, info.DesiredStatus, err)
		}
	}
	other := run(ctx, t, c, slicesJob, sliceVars(c, "elsewhere", cluster.Vars{"gpus": "."}), 2)
	for _, alloc := range other {
		if on := devices(t, alloc)[0].GPU; string(on) != uuid(t, c, t4) {
			t.Errorf("%s is on %s, want the healthy GPU", alloc.Name, on)
		}
	}
	if err := c.Rack.Restore(uuid(t, c, h100)); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 20); err != nil {
		t.Error("the GPU must come back when the cause is gone:", err)
	}
}

// daemon returns the process of the MPS daemon of a GPU.
func daemon(ctx context.Context, t *testing.T, c *cluster.Cluster, gpu string) int {
	t.Helper()
	var found int
	err := cluster.AwaitWithin(ctx, 15*time.Second, "the MPS daemon of "+gpu, func() string {
		found = 0
		for _, pid := range c.Processes(mpsControl) {
			if c.MPSOf(pid) == gpu {
				if found != 0 {
					return fmt.Sprintf("there are two: %d and %d", found, pid)
				}
				found = pid
			}
		}
		if found == 0 {
			return "there is none"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// awaitDaemon waits at most 5 seconds until another daemon than before serves the H100.
func awaitDaemon(ctx context.Context, t *testing.T, c *cluster.Cluster, before int) {
	t.Helper()
	began := time.Now()
	err := cluster.AwaitWithin(ctx, 5*time.Second, "another MPS daemon", func() string {
		for _, pid := range c.Processes(mpsControl) {
			if pid != before && c.MPSOf(pid) == uuid(t, c, h100) && c.MPSAnswers(ctx, uuid(t, c, h100)) {
				return ""
			}
		}
		return "there is none that answers"
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("another MPS daemon served after %s", time.Since(began).Round(100*time.Millisecond))
}

// mpsKilled kills the daemon. Another must serve within 5 seconds.
func mpsKilled(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	before := daemon(ctx, t, c, uuid(t, c, h100))
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDaemon(ctx, t, c, before)
	daemon(ctx, t, c, uuid(t, c, h100)) // exactly one
	if err := c.AwaitHealth(ctx, "h100-0", 20); err != nil {
		t.Error(err)
	}
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "after-mps", nil), 2)
	infos(ctx, t, c, allocs)
}

// mpsFault puts the H100's server into FAULT while it has clients that do not notice. The driver
// stops their tasks and reports why, Nomad restarts them, and the GPU recovers, all without
// intervention.
func mpsFault(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "fault", cluster.Vars{"args": []string{"-gpu-touch", "1h"}}), 2)
	infos(ctx, t, c, allocs)
	servers := slices.DeleteFunc(c.Processes(mpsServer), func(pid int) bool { return c.MPSOf(pid) != uuid(t, c, h100) })
	if len(servers) != 1 {
		t.Fatalf("the H100 has MPS servers %v, want one", servers)
	}
	if err := syscall.Kill(servers[0], syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for _, alloc := range allocs {
		if _, err := c.AwaitEvent(ctx, alloc.ID, "the MPS server of h100-0 is in FAULT"); err != nil {
			t.Error(err)
		}
	}
	for _, alloc := range allocs {
		err := cluster.AwaitWithin(ctx, time.Minute, "another start of "+alloc.Name, func() string {
			info, _, err := c.Nomad.Allocations().Info(alloc.ID, nil)
			if err != nil {
				return err.Error()
			}
			for name, state := range info.TaskStates {
				if state.State != "running" || state.Restarts == 0 {
					return fmt.Sprintf("task %s is %s after %d restarts: %s", name, state.State, state.Restarts, cluster.Events(info.TaskStates))
				}
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for group, info := range infos(ctx, t, c, allocs) {
		if info.CUDA == nil || !info.CUDA.MPS {
			t.Errorf("%s: %+v, want it over MPS again", group, info)
		}
	}
	if err := c.AwaitHealth(ctx, "h100-0", 20); err != nil {
		t.Error(err)
	}
	if err := c.AwaitHealth(ctx, "t4-1", 20); err != nil {
		t.Error(err)
	}
}

// mpsQuit does what a task can do in the shared pipe directory: it names a foreign process as the
// daemon, and makes the daemon quit. Another daemon must serve within 5 seconds, and neither the
// process nor the other GPU is affected.
func mpsQuit(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "quit", nil), 2)
	infos(ctx, t, c, allocs)
	before, other := daemon(ctx, t, c, uuid(t, c, h100)), daemon(ctx, t, c, uuid(t, c, t4))
	foreign := exec.Command("sleep", "300")
	foreign.Env = []string{"CUDA_MPS_PIPE_DIRECTORY=" + c.MPSPipe(uuid(t, c, h100))}
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Process.Kill(); _ = foreign.Wait() }()
	file := filepath.Join(c.MPSPipe(uuid(t, c, h100)), mpsControl+".pid")
	if err := os.WriteFile(file, fmt.Appendln(nil, foreign.Process.Pid), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := c.MPSCommand(ctx, uuid(t, c, h100), "quit -t 1"); err != nil {
		t.Fatal(err)
	}
	awaitDaemon(ctx, t, c, before)
	if err := foreign.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("the foreign process was ended:", err)
	}
	if after := daemon(ctx, t, c, uuid(t, c, t4)); after != other {
		t.Errorf("the other GPU's daemon %d was replaced by %d", other, after)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 20); err != nil {
		t.Error(err)
	}
	if err := c.Purge(ctx, allocs[0].JobID); err != nil {
		t.Fatal(err)
	}
	infos(ctx, t, c, run(ctx, t, c, slicesJob, sliceVars(c, "after-quit", nil), 2))
}

// sharedMemory creates a file in the /dev/shm of two tasks: it must exist in both containers and
// not on the host, and be removed with the last of them.
func sharedMemory(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "shm", nil), 2)
	seen := infos(ctx, t, c, allocs)
	name := fmt.Sprintf("left-by-%s", allocs[0].ID)
	file := filepath.Join(c.MPSPipe(uuid(t, c, h100)), "../shm", name)
	if err := os.WriteFile(file, []byte("segment"), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 {
		t.Fatalf("%d tasks", len(seen))
	}
	in := 0
	processes, err := filepath.Glob("/proc/[0-9]*/root/dev/shm/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		if groups, err := os.ReadFile(filepath.Join(path, "../../../../cgroup")); err == nil && strings.Contains(string(groups), "docker") {
			in++
		}
	}
	if in < 2 {
		t.Errorf("%d processes of containers have the file: %v", in, processes)
	}
	if _, err := os.Stat(filepath.Join("/dev/shm", name)); err == nil {
		t.Error("the host's /dev/shm has it too")
	}
	if err := c.Purge(ctx, allocs[0].JobID); err != nil {
		t.Fatal(err)
	}
	err = cluster.AwaitWithin(ctx, 60*time.Second, "the end of the file with the last task", func() string {
		if _, err := os.Stat(file); os.IsNotExist(err) {
			return ""
		}
		return "it is there"
	})
	if err != nil {
		t.Error(err)
	}
}

// mismatch upgrades the driver's packages while the older module stays loaded.
func mismatch(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	file := c.HostFile("sys/module/nvidia/version")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("470.57.02\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 0); err != nil {
		t.Fatal(err)
	}
	describes(t, c, "h100-0", "its loaded kernel module is 470.57.02")
	if err := os.WriteFile(file, before, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"h100-0", "t4-1"} {
		if err := c.AwaitHealth(ctx, group, 20); err != nil {
			t.Error("the module was loaded again:", err)
		}
	}
}

// describes checks that the health of every instance of a group names the cause.
func describes(t *testing.T, c *cluster.Cluster, group, cause string) {
	t.Helper()
	groups, err := c.Groups()
	if err != nil {
		t.Fatal(err)
	}
	for _, instance := range groups[group].Instances {
		if !strings.Contains(instance.HealthDescription, cause) {
			t.Errorf("%s is unhealthy by %q, want it to name %q", instance.ID, instance.HealthDescription, cause)
			return
		}
	}
}

// pluginKilled kills the device plugin. Nomad starts another, which adopts the MPS daemons and does
// not affect the tasks.
func pluginKilled(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "plugin-killed", nil), 2)
	seen := infos(ctx, t, c, allocs)
	before := daemon(ctx, t, c, uuid(t, c, h100))
	plugins := c.Processes(cluster.DevicePlugin)
	if len(plugins) == 0 {
		t.Fatal("no device plugin runs")
	}
	for _, pid := range plugins {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	err := cluster.AwaitWithin(ctx, 20*time.Second, "another device plugin", func() string {
		for _, pid := range c.Processes(cluster.DevicePlugin) {
			if pid != plugins[0] {
				return ""
			}
		}
		return "there is none"
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 20); err != nil {
		t.Error(err)
	}
	if after := daemon(ctx, t, c, uuid(t, c, h100)); after != before {
		t.Errorf("MPS daemon %d was replaced by %d, want it adopted", before, after)
	}
	for group, info := range infos(ctx, t, c, allocs) {
		if info.PID != seen[group].PID || info.CUDA.Server != seen[group].CUDA.Server {
			t.Errorf("%s: the task was disturbed", group)
		}
	}
	// The new plugin serves reservations.
	more := run(ctx, t, c, slicesJob, sliceVars(c, "after-plugin", cluster.Vars{"small": 1, "large": 3}), 2)
	infos(ctx, t, c, more)
}
