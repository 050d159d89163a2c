package e2e

import (
	"context"
	"fmt"
	"testing"

	"aliquot.example/e2e/cluster"
)

// placementJob requests slices in several sizes at once. The task does nothing, because its slices
// are chosen before it starts.
const placementJob = `
variable "name" {}
variable "sizes" { type = list(number) }

job "placement" {
  id   = var.name
  name = var.name
  type = "batch"

  dynamic "group" {
    for_each = var.sizes
    labels   = ["g${group.key}"]
    content {
      ephemeral_disk {
        size = 10
      }
      task "none" {
        driver = "raw_exec"
        config {
          command = "/bin/true"
        }
        logs {
          max_files     = 1
          max_file_size = 1
        }
        resources {
          cpu    = 5
          memory = 10
          device "nvidia/gpu" {
            count = group.value
          }
        }
      }
    }
  }
}`

// neverSplit places 100 requests of many sizes on two GPUs.
func neverSplit(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	const rounds = 10
	// 36 of 40 slices, so that the last requests find both GPUs partly full.
	sizes := []int{5, 3, 1, 7, 2, 4, 6, 2, 1, 5}
	placed, gpus := 0, map[string]int{}
	for round := range rounds {
		job := submit(ctx, t, c, placementJob, cluster.Vars{"name": fmt.Sprintf("placement-%d", round), "sizes": sizes})
		allocs, err := c.AwaitComplete(ctx, job, len(sizes))
		if err != nil {
			t.Fatal(err)
		}
		for _, alloc := range allocs {
			slices := devices(t, alloc)
			on := map[string]bool{}
			for _, slice := range slices {
				on[string(slice.GPU)] = true
				gpus[string(slice.GPU)]++
			}
			if len(on) != 1 {
				t.Errorf("%s: %d slices lie on %d GPUs: %v", alloc.Name, len(slices), len(on), slices)
			}
			placed++
		}
	}
	if placed != rounds*len(sizes) || len(gpus) != 2 {
		t.Errorf("%d placements on %d GPUs, want %d on 2", placed, len(gpus), rounds*len(sizes))
	}
}
