package e2e

import (
	"slices"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// intelJob runs on a whole GPU, with an image by key, or on a virtual function, with an image tag
// by hardware.
const intelJob = `
variable "name" {}
variable "image" {}
variable "group" {}

job "intel" {
  id   = var.name
  name = var.name
  group "server" {
    network {
      port "http" { to = 8000 }
    }
    task "server" {
      driver = "aliquot"
      config {
        IMAGE
        ports = ["http"]
      }
      resources {
        cpu    = 50
        memory = 64
        device "intel/gpu" {
          constraint {
            attribute = "${device.model}"
            value     = var.group
          }
        }
      }
    }
  }
}`

// TestIntel runs on a card, the virtual functions of another card, and an NVIDIA GPU. Each task
// gets the image for its hardware, only the render node of its grant, the folder of links that
// Intel's user-mode driver reads, and the mask that numbers its devices.
func TestIntel(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100", Intel: &cluster.Intel{GPUs: []rack.IntelGPU{
		{PCI: "0000:03:00.0", Device: 0x56c0, Driver: "xe", Render: 128, MemoryMiB: 14336, Tiles: 2},
		{PCI: "0000:83:00.0", Device: 0x56c1, Driver: "xe", Render: 140, MemoryMiB: 5120, Functions: 4, QuotaMiB: 1200, ForMachines: 1},
	}}})
	groups, err := c.Groups()
	if err != nil {
		t.Fatal(err)
	}
	offered := map[string]*nomad.NodeDeviceResource{}
	for _, g := range groups {
		if g.Vendor == string(gpu.Intel) {
			kind := "whole"
			if strings.Contains(g.Name, "-vf-") {
				kind = "function"
			}
			offered[kind] = g
		}
	}
	for kind, want := range map[string]struct {
		instances, memory int
		image, mask, node string
		enforcement       gpu.Enforcement
	}{
		"whole":    {1, 14336, "images { xpu = \"${var.image}:intel\" }", "0,1", "/dev/dri/renderD128", gpu.EnforceWhole},
		"function": {3, 1200, "image = var.image\nimage_tag_by_hardware = true", "0", "/dev/dri/renderD14", gpu.EnforceFunction},
	} {
		g := offered[kind]
		if g == nil || len(g.Instances) != want.instances {
			t.Errorf("%s: the node offers %+v of %v", kind, g, offered)
			continue
		}
		job := submit(ctx, t, c, strings.Replace(intelJob, "IMAGE", want.image, 1), cluster.Vars{"name": "intel-" + kind, "image": c.Image, "group": g.Name})
		allocs, err := c.AwaitRunning(ctx, job, 1)
		if err != nil {
			t.Fatal(err)
		}
		info := infos(ctx, t, c, allocs)["server"]
		if info.Variant != string(gpu.Intel) || info.Grant == nil || info.Grant.Memory != gpu.MiB(want.memory) || info.Grant.Enforcement != want.enforcement {
			t.Errorf("%s: image for %s, granted %+v", kind, info.Variant, info.Grant)
		}
		if got := info.Environment["ZE_AFFINITY_MASK"]; got != want.mask {
			t.Errorf("%s: ZE_AFFINITY_MASK %q, want %q", kind, got, want.mask)
		}
		if len(info.DeviceNodes) != 1 || !strings.HasPrefix(info.DeviceNodes[0], want.node) {
			t.Errorf("%s: device nodes %v, want one of %s", kind, info.DeviceNodes, want.node)
		}
		if !slices.Contains(info.Mounts, "/dev/dri/by-path") {
			t.Errorf("%s: no links to render nodes: %v", kind, info.Mounts)
		}
		if _, err := c.AwaitEvent(ctx, allocs[0].ID, "on "+g.Name); err != nil {
			t.Error(err)
		}
	}
	whole := offered["whole"]
	if whole == nil {
		return
	}
	if err := c.Intel.Edit("0000:03:00.0", func(g *rack.IntelGPU) { g.Lost = true }); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, whole.Name, 0); err != nil {
		t.Error(err)
	}
	if err := c.Intel.Edit("0000:03:00.0", func(g *rack.IntelGPU) { g.Lost = false }); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, whole.Name, 1); err != nil {
		t.Error(err)
	}
}
