package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/doctor"
)

const meshJob = "jobs/mesh.nomad.hcl"

// TestMesh submits the job file for the mesh unchanged, with a stand-in for Envoy: server and
// sidecar share a network, the server has its GPU, and Consul has both.
func TestMesh(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	allocs := run(ctx, t, c, meshJob, cluster.Vars{"image": c.Image, "envoy": sidecarImage(ctx, t, c), "cpu": 50, "memory": 64}, 1)
	if len(allocs[0].TaskStates) != 2 {
		t.Errorf("the tasks are %v, want a server and its sidecar", allocs[0].TaskStates)
	}
	if info := infos(ctx, t, c, allocs)["server"]; info.CUDA == nil || !info.CUDA.MPS || info.Grant.Slices != 2 {
		t.Errorf("the server sees %+v", info)
	}
	err := cluster.AwaitWithin(ctx, time.Minute, "the service and its sidecar in Consul", func() string {
		for name, want := range map[string]string{"mesh": "h100", "mesh-sidecar-proxy": "h100"} {
			found, _, err := c.Consul.Catalog().Service(name, "", nil)
			if err != nil {
				return err.Error()
			}
			if len(found) != 1 || found[0].ServiceMeta["gpu_class"] != want {
				return name + " is not there with its class"
			}
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
	// Nomad's default sidecar uses the docker driver.
	beside := submit(ctx, t, c, besideJob, cluster.Vars{"image": c.Image, "envoy": sidecarImage(ctx, t, c)})
	found(t, findings(ctx, t, c), "network", doctor.Warning, beside+"/server has tasks of the drivers aliquot and docker")
}

// besideJob has a sidecar of the docker driver, as Nomad adds by default.
const besideJob = `
variable "image" {}
variable "envoy" {}

job "beside" {
  group "server" {
    network {
      mode = "bridge"
      port "http" {}
    }
    service {
      name = "beside"
      port = "http"
      connect {
        sidecar_service {}
        sidecar_task {
          config { image = var.envoy }
        }
      }
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" { count = 2 }
      }
    }
  }
}`

// TestDockerTaskBesideSlices runs tasks of both drivers in one network, on a node whose operator
// leaves networks to the docker driver.
func TestDockerTaskBesideSlices(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4", Driver: "join_networks = true"})
	job := submit(ctx, t, c, besideJob, cluster.Vars{"image": c.Image, "envoy": sidecarImage(ctx, t, c)})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if info := infos(ctx, t, c, allocs)["server"]; info.CUDA == nil || !info.CUDA.MPS {
		t.Errorf("the server sees %+v", info)
	}
	alone := submit(ctx, t, c, bridgeJob, cluster.Vars{"image": c.Image})
	if _, err := c.AwaitFailure(ctx, alone, "join_networks = true"); err != nil {
		t.Error(err)
	}
}

// sidecarImage builds an image of the stand-in for Envoy.
func sidecarImage(ctx context.Context, t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "sidecar")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./testdata/sidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, strings.TrimSpace(string(out)))
	}
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "sidecar", Mode: 0o755, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := c.ImportArchive(ctx, &archive, "sidecar", "/sidecar")
	if err != nil {
		t.Fatal(err)
	}
	return image
}
