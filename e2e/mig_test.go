package e2e

import (
	"context"
	"slices"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/gpu"
)

// partJob requests devices of one group.
const partJob = `
variable "name" {}
variable "image" {}
variable "group" {}
variable "count" { type = number }

job "part" {
  id   = var.name
  name = var.name
  group "server" {
    network {
      port "http" { to = 8000 }
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
        require_attachment    = true
        attachment_timeout    = "10s"
        ports                 = ["http"]
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" {
          count = var.count
          constraint {
            attribute = "${device.model}"
            value     = var.group
          }
        }
      }
    }
  }
}`

// TestParts grants MIG devices of one GPU and whole GPUs of another node's kind.
func TestParts(t *testing.T) {
	t.Run("MIG", func(t *testing.T) {
		ctx, c := start(t, cluster.Options{Rack: "a100-mig", Device: `gpu "*" { mode = "mig" }`})
		part(ctx, t, c, "a100-40gb-mig-3g.20gb", 1, gpu.SharingMIG)
		part(ctx, t, c, "a100-40gb-mig-1g.5gb", 1, gpu.SharingMIG)
	})
	t.Run("whole", func(t *testing.T) {
		ctx, c := start(t, cluster.Options{Rack: "8xh100", Device: "gpu \"*\" {\n mode = \"whole\"\n}\npacking {}\n"})
		islands(ctx, t, c)
		part(ctx, t, c, "h100", 3, gpu.SharingNone)
	})
}

// part runs a task on devices of a group and checks that it sees only these.
func part(ctx context.Context, t *testing.T, c *cluster.Cluster, group string, count int, sharing gpu.Sharing) {
	t.Helper()
	job := submit(ctx, t, c, partJob, cluster.Vars{"name": gpu.Slug(group), "image": c.Image, "group": group, "count": count})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	info := infos(ctx, t, c, allocs)["server"]
	if info.Grant == nil || info.CUDA == nil {
		t.Fatal("the task sees no GPU")
	}
	if info.Grant.Group != group || info.Grant.Sharing != sharing || len(info.Grant.GPUs) != count {
		t.Errorf("granted %d of %s shared by %s, want %d of %s by %s", len(info.Grant.GPUs), info.Grant.Group, info.Grant.Sharing, count, group, sharing)
	}
	if info.CUDA.MPS || len(info.CUDA.Devices) != count {
		t.Errorf("the task sees %d devices (MPS %v), want %d without MPS", len(info.CUDA.Devices), info.CUDA.MPS, count)
	}
	for _, reserved := range devices(t, allocs[0]) {
		if !slices.Contains(info.Grant.GPUs, reserved.GPU) {
			t.Errorf("Nomad reserved %s, the task was granted %v", reserved.GPU, info.Grant.GPUs)
		}
	}
	if _, err := c.AwaitEvent(ctx, allocs[0].ID, "GPU attachment verified"); err != nil {
		t.Error(err)
	}
	if units, seen := info.Grant.Units, total(info); units != seen {
		t.Errorf("granted %d SMs and sees %d", units, seen)
	}
}

func total(info hardware.Info) int {
	n := 0
	for _, device := range info.CUDA.Devices {
		n += device.SMs
	}
	return n
}
