package e2e

import (
	"context"
	"testing"

	"aliquot.example/e2e/cluster"
)

// bridgeJob runs a model server with slices in its own network, created by the CNI plugins.
const bridgeJob = `
variable "image" {}

job "bridge" {
  group "server" {
    network {
      mode = "bridge"
      port "http" { to = 8000 }
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
        require_attachment    = true
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" { count = 2 }
      }
    }
  }
}`

// bridgeNetwork checks that a task in bridge mode is reachable and has its GPU.
func bridgeNetwork(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	job := submit(ctx, t, c, bridgeJob, cluster.Vars{"image": c.Image})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if info := infos(ctx, t, c, allocs)["server"]; info.CUDA == nil || !info.CUDA.MPS {
		t.Errorf("the task sees no GPU over MPS: %+v", info)
	}
}
