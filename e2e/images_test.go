package e2e

import (
	"context"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
)

// imageJob runs a model server with or without slices. The config chooses the image.
const imageJob = `
variable "name" {}
variable "image" {}
variable "slices" { type = number }

job "image" {
  id   = var.name
  name = var.name
  group "server" {
    restart { attempts = 0 }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    network {
      port "http" { to = 8000 }
    }
    task "server" {
      driver = "aliquot"
      config {
        ports = ["http"]
        CONFIG
      }
      resources {
        cpu    = 50
        memory = 64
        dynamic "device" {
          for_each = range(min(var.slices, 1))
          labels   = ["nvidia/gpu"]
          content { count = var.slices }
        }
      }
    }
  }
}`

func withConfig(config string) string { return strings.Replace(imageJob, "CONFIG", config, 1) }

func imageByHardware(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	tags := `image = var.image
		image_tag_by_hardware = true`
	images := `images {
			cuda = "${var.image}:nvidia"
			rocm = "${var.image}:amd"
			cpu  = "${var.image}:cpu"
		}`
	// The first variant that matches wins, and overrides the environment.
	variants := `variant "big" {
			image  = "${var.image}:amd"
			vendor = "nvidia"
			constraint {
				attribute = "memory"
				operator  = ">="
				value     = "500 GiB"
			}
		}
		variant "cuda" {
			image  = "${var.image}:nvidia"
			vendor = "nvidia"
			args   = ["-slots", "9"]
		}
		variant "any" {
			image = "${var.image}:cpu"
		}`
	for _, test := range []struct {
		name, config string
		slices       int
		want         string
		slots        int
	}{
		{"tag-gpu", tags, 2, "nvidia", 4},
		{"tag-cpu", tags, 0, "cpu", 4},
		{"images-gpu", images, 2, "nvidia", 4},
		{"images-cpu", images, 0, "cpu", 4},
		{"variant-gpu", variants, 2, "nvidia", 9},
		{"variant-cpu", variants, 0, "cpu", 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := submit(ctx, t, c, withConfig(test.config), cluster.Vars{"name": test.name, "image": c.Image, "slices": test.slices})
			allocs, err := c.AwaitRunning(ctx, job, 1)
			if err != nil {
				t.Fatal(err)
			}
			info := infos(ctx, t, c, allocs)["server"]
			if info.Variant != test.want || info.Slots != test.slots {
				t.Errorf("the image is for %s with %d slots, want %s with %d", info.Variant, info.Slots, test.want, test.slots)
			}
			if test.want == "nvidia" {
				if _, err := c.AwaitEvent(ctx, allocs[0].ID, c.Image+":nvidia"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func noMatchingVariant(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	config := `variant "amd-only" {
			image  = "${var.image}:amd"
			vendor = "amd"
		}`
	job := submit(ctx, t, c, withConfig(config), cluster.Vars{"name": "no-variant", "image": c.Image, "slices": 2})
	reason, err := c.AwaitFailure(ctx, job, "amd-only")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nvidia", "2 of 20"} {
		if !strings.Contains(reason, want) {
			t.Errorf("the task failed with %q, want it to name the granted %s", reason, want)
		}
	}
}
