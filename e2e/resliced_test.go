package e2e

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
)

// gapJob has slices of the only GPU and restarts with a delay after its program has ended.
const gapJob = `
variable "name" {}
variable "image" {}
variable "count" { type = number }

job "gap" {
  id   = var.name
  name = var.name
  group "server" {
    restart {
      attempts = 20
      interval = "1h"
      delay    = "40s"
      mode     = "delay"
    }
    network {
      port "http" { to = 8000 }
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
        require_attachment    = true
        ports                 = ["http"]
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" { count = var.count }
      }
    }
  }
}`

// TestSlicesChangeUnderATask changes the number of slices of a GPU while a task has 60% of it.
// Nomad does not count the task's instances against the new ones: nothing else is placed beside it,
// and it does not restart beside a task that took the GPU meanwhile.
func TestSlicesChangeUnderATask(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100", Device: "gpu \"*\" {\n slices = 20\n}\n"})
	before := submit(ctx, t, c, gapJob, cluster.Vars{"name": "before", "image": c.Image, "count": 12})
	allocs, err := c.AwaitRunning(ctx, before, 1)
	if err != nil {
		t.Fatal(err)
	}
	infos(ctx, t, c, allocs)
	old := allocs[0]
	if err := c.Reconfigure("gpu \"*\" {\n slices = 10\n}\n"); err != nil {
		t.Fatal(err)
	}
	c.StopAgent()
	if err := c.StartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "h100-0", 0); err != nil {
		t.Error(err)
	}
	groups, err := c.Groups()
	if err != nil {
		t.Fatal(err)
	}
	if g := groups["h100-0"]; len(g.Instances) != 10 || !strings.Contains(g.Instances[0].HealthDescription, "from before a change of slices or mode") {
		t.Errorf("the GPU is offered as %+v", g.Instances)
	}
	over := submit(ctx, t, c, gapJob, cluster.Vars{"name": "over", "image": c.Image, "count": 10})
	// On a slow machine the task may restart before the other is placed. Then try again.
	killed := 0
	err = cluster.AwaitWithin(ctx, 6*time.Minute, "another job in the gap", func() string {
		if running(c, over) {
			return ""
		}
		if !running(c, before) {
			return "it waits: " + c.Blocked(over)
		}
		out, _ := exec.CommandContext(ctx, "docker", "inspect", "--format", "{{.State.Pid}}", "server-"+old.ID).Output()
		if pid, _ := strconv.Atoi(strings.TrimSpace(string(out))); pid > 0 && pid != killed {
			killed = pid
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return "the first task runs"
	})
	if err != nil {
		t.Fatal(err)
	}
	refusal := func() string {
		info, _, err := c.Nomad.Allocations().Info(old.ID, nil)
		if err != nil {
			return err.Error()
		}
		if running(c, before) && running(c, over) {
			t.Fatalf("both jobs run, on 160%% of the GPU: %s", cluster.Events(info.TaskStates))
		}
		for _, e := range info.TaskStates["server"].Events {
			if strings.Contains(e.DisplayMessage, "60% of GPU") && strings.Contains(e.DisplayMessage, "still hold too much of it") {
				return ""
			}
		}
		return "there are: " + cluster.Events(info.TaskStates)
	}
	if err := cluster.AwaitWithin(ctx, 5*time.Minute, "the refusal of what does not fit", refusal); err != nil {
		t.Fatal(err)
	}
	if err := c.Purge(ctx, over); err != nil {
		t.Fatal(err)
	}
	err = cluster.AwaitWithin(ctx, 6*time.Minute, "the first task back", func() string {
		if running(c, before) {
			return ""
		}
		return "it does not run"
	})
	if err != nil {
		t.Error(err)
	}
}

// running reports whether a job's task runs.
func running(c *cluster.Cluster, job string) bool {
	stubs, _, err := c.Nomad.Jobs().Allocations(job, false, nil)
	if err != nil {
		return false
	}
	for _, s := range stubs {
		if state := s.TaskStates["server"]; s.ClientStatus == nomad.AllocClientStatusRunning && state != nil && state.State == "running" {
			return true
		}
	}
	return false
}
