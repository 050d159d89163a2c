package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
)

// volumeJob mounts a host volume into a task that has slices.
const volumeJob = `
variable "image" {}

job "volume" {
  group "server" {
    network {
      port "http" { to = 8000 }
    }
    volume "models" {
      type      = "host"
      source    = "models"
      read_only = true
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
        require_attachment    = true
        ports                 = ["http"]
      }
      # What the job says of its own limits must not count.
      env {
        CUDA_MPS_ACTIVE_THREAD_PERCENTAGE = "100"
        CUDA_MPS_PINNED_DEVICE_MEM_LIMIT  = "0=80G"
        CUDA_VISIBLE_DEVICES              = "0,1"
      }
      volume_mount {
        volume      = "models"
        destination = "/models"
        read_only   = true
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" { count = 5 }
      }
    }
  }
}`

// TestRestart restarts a task, then the agent and the task again. Each time the container must get
// the same GPU with the same limits and mounts.
func TestRestart(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4", Volumes: map[string]string{"models": t.TempDir()}})
	job := submit(ctx, t, c, volumeJob, cluster.Vars{"image": c.Image})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	alloc := allocs[0]
	first := infos(ctx, t, c, allocs)["server"]
	if !slices.Contains(first.Mounts, "/models") {
		t.Fatalf("the host volume is not mounted; there are %v", first.Mounts)
	}

	if got := first.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]; got != "25" {
		t.Errorf("the job's env raised the percentage to %s, want the granted 25", got)
	}

	restart(ctx, t, c, alloc)
	same(t, "after a task restart", first, infos(ctx, t, c, allocs)["server"])

	c.StopAgent()
	if err := c.StartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitRunning(ctx, job, 1); err != nil {
		t.Fatal(err)
	}
	same(t, "after an agent restart", first, infos(ctx, t, c, allocs)["server"])

	restart(ctx, t, c, alloc)
	same(t, "after an agent restart and a task restart", first, infos(ctx, t, c, allocs)["server"])

	c.KillAgent()
	if err := c.StartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	restart(ctx, t, c, alloc)
	same(t, "after an agent crash and a task restart", first, infos(ctx, t, c, allocs)["server"])

	killDriver(ctx, t, c, alloc)
	same(t, "after a crash of the driver", first, infos(ctx, t, c, allocs)["server"])
	restart(ctx, t, c, alloc)
	same(t, "after a crash of the driver and a task restart", first, infos(ctx, t, c, allocs)["server"])
}

// killDriver kills the task driver and waits until Nomad has started another one that has recovered
// the task, so that its statistics continue.
func killDriver(ctx context.Context, t *testing.T, c *cluster.Cluster, alloc *nomad.Allocation) {
	t.Helper()
	drivers := func() []int {
		return slices.DeleteFunc(c.Processes(cluster.DriverPlugin), func(pid int) bool {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return err != nil || strings.Contains(string(line), "docker_logger")
		})
	}
	before := drivers()
	if len(before) == 0 {
		t.Fatal("no task driver runs")
	}
	for _, pid := range before {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	killed := time.Now()
	err := cluster.AwaitWithin(ctx, time.Minute, "another task driver", func() string {
		after := drivers()
		if !slices.ContainsFunc(after, func(pid int) bool { return !slices.Contains(before, pid) }) {
			return "there is none"
		}
		usage, err := c.Nomad.Allocations().Stats(alloc, nil)
		if err != nil {
			return err.Error()
		}
		task := usage.Tasks["server"]
		if task == nil || time.Unix(0, task.Timestamp).Before(killed) {
			return "it gives no statistics of the task"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restart restarts the tasks of an allocation and waits until they run again.
func restart(ctx context.Context, t *testing.T, c *cluster.Cluster, alloc *nomad.Allocation) {
	t.Helper()
	restarts := func(alloc *nomad.Allocation) uint64 { return alloc.TaskStates["server"].Restarts }
	before, _, err := c.Nomad.Allocations().Info(alloc.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.AwaitWithin(ctx, 30*time.Second, "a client that takes the restart", func() string {
		if err := c.Nomad.Allocations().Restart(alloc, "server", nil); err != nil {
			return err.Error()
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.AwaitWithin(ctx, 45*time.Second, "the restarted task", func() string {
		now, _, err := c.Nomad.Allocations().Info(alloc.ID, nil)
		if err != nil {
			return err.Error()
		}
		if state := now.TaskStates["server"]; state.State != "running" || restarts(now) == restarts(before) {
			return "it is " + state.State + "; " + cluster.Events(now.TaskStates)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// same compares what the task sees of its GPU and of its mounts.
func same(t *testing.T, when string, want, have hardware.Info) {
	t.Helper()
	if have.Grant == nil || have.CUDA == nil {
		t.Fatalf("%s the task has no GPU: %s", when, have.Problem)
	}
	if !slices.Equal(have.Grant.Instances, want.Grant.Instances) || have.CUDA.Devices[0] != want.CUDA.Devices[0] || have.CUDA.MPS != want.CUDA.MPS {
		t.Errorf("%s the task sees %+v of %v, want %+v of %v", when, have.CUDA.Devices, have.Grant.Instances, want.CUDA.Devices, want.Grant.Instances)
	}
	if !slices.Equal(have.DeviceNodes, want.DeviceNodes) {
		t.Errorf("%s the task has nodes %v, want %v", when, have.DeviceNodes, want.DeviceNodes)
	}
	if !slices.Equal(have.Mounts, want.Mounts) {
		t.Errorf("%s the task has mounts %v, want %v", when, have.Mounts, want.Mounts)
	}
	for _, key := range []string{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY"} {
		if have.Environment[key] != want.Environment[key] {
			t.Errorf("%s %s is %q, want %q", when, key, have.Environment[key], want.Environment[key])
		}
	}
}
