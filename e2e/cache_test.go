package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	consul "github.com/hashicorp/consul/api"

	"aliquot/cache/hubtest"
	"aliquot/e2e/cluster"
	"aliquot/internal/top"
)

// TestCacheJob runs the cache as its job file says, starts tasks from it, and reads a model
// through the Hub's face, from the store when the Hub has gone.
func TestCacheJob(t *testing.T) {
	hub, stop := hubtest.Start()
	defer stop()
	body := hubtest.Bytes(1, 20<<20)
	sha := hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"config.json": {Body: []byte("{}")}, "model.safetensors": {Body: body, LFS: true}})
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	ctx, c := start(t, cluster.Options{Rack: "h100", Registry: true, Driver: fmt.Sprintf("cache_socket = %q", socket)})
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Run("jobs/cache.nomad.hcl", cluster.Vars{
		"command": c.Program("aliquot"), "consul": c.ConsulAddress[len("http://"):], "tls": "", "hf_port": port,
		"settings": fmt.Sprintf("dir = %q\nsocket = %q\nkeep_free = \"0\"\nhuggingface { endpoint = %q }\n", filepath.Join(dir, "store"), socket, hub.URL),
	})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	if _, err := c.AwaitRunning(ctx, *job.ID, 1); err != nil {
		t.Fatal(err)
	}
	err = cluster.Await(ctx, "the cache in Consul", func() string {
		found, _, err := c.Consul.Health().Service("aliquot-cache", "", true, &consul.QueryOptions{})
		if err != nil || len(found) != 1 {
			return fmt.Sprintf("%d are healthy, %v", len(found), err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	coldStarts(ctx, t, c, hub)
	read := func(path string) (*http.Response, []byte) {
		res, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, got
	}
	at := "/Qwen/Qwen3/resolve/main/model.safetensors"
	if res, got := read(at); res.StatusCode != http.StatusOK || res.Header.Get("X-Repo-Commit") != sha || !bytes.Equal(got, body) {
		t.Fatalf("%s %v, %d bytes", res.Status, res.Header, len(got))
	}
	hub.Set(func(h *hubtest.Hub) { h.Down = true })
	if res, got := read("/Qwen/Qwen3/resolve/" + sha + "/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
		t.Errorf("without the Hub: %s, %d bytes", res.Status, len(got))
	}
}

// coldJob serves a model that nobody has, with kernels that nobody has compiled. Its port
// is another for each allocation.
const coldJob = `
variable "name" {}
variable "image" {}
variable "count" { type = number }

job "cold" {
  id   = var.name
  name = var.name
  group "server" {
    count = var.count
    update { max_parallel = 0 }
    network {
      port "http" {}
    }
    task "server" {
      driver = "aliquot"
      config {
        image                 = var.image
        image_tag_by_hardware = true
        network_mode          = "host"
        args                  = ["-listen=:${NOMAD_PORT_http}", "-compile=2s"]
        models                = ["hf://Qwen/Qwen3@main"]
        models_wait           = "60s"
        compile_cache         = true
        ready_check   = "http/health"
        compile_cache_settle  = "1s"
      }
      resources {
        cpu    = 50
        memory = 64
        device "nvidia/gpu" { count = 4 }
      }
    }
  }
}`

// coldStarts starts a service whose model and kernels are nowhere: the next replica reads
// nothing of the Hub and compiles nothing, and another job compiles for itself.
func coldStarts(ctx context.Context, t *testing.T, c *cluster.Cluster, hub *hubtest.Hub) {
	seen := map[string]bool{} // allocations
	begin := func(name string, count int, compiles bool, events ...string) {
		t.Helper()
		job, err := c.RunText(coldJob, cluster.Vars{"name": name, "image": c.Image, "count": count})
		if err != nil {
			t.Fatal(err)
		}
		if count == 1 {
			purge(ctx, t, c, *job.ID)
		}
		allocs, err := c.AwaitRunning(ctx, *job.ID, count)
		if err != nil {
			t.Fatal(err)
		}
		for _, alloc := range allocs {
			if seen[alloc.ID] {
				continue
			}
			seen[alloc.ID] = true
			info, err := c.Info(ctx, alloc)
			if err != nil {
				t.Fatal(err)
			}
			if info.Compiled != compiles || info.Environment["HF_HUB_OFFLINE"] != "1" || info.Grant == nil {
				t.Errorf("%s: compiled %v, want %v; %v", alloc.Name, info.Compiled, compiles, info.Environment)
			}
			if !slices.Contains(info.Mounts, "/aliquot/models/hub/models--Qwen--Qwen3") {
				t.Errorf("%s: the model is not among %v", alloc.Name, info.Mounts)
			}
			for _, text := range append(events, "model hf://Qwen/Qwen3@main is on the node", "until the task is ready: models") {
				said, err := c.AwaitEvent(ctx, alloc.ID, text)
				if err != nil {
					t.Error(err)
				}
				t.Logf("%s: %s", alloc.Name, said)
			}
		}
	}
	begin("cold", 1, true, "is pulled", "are kept for the next start of this job")
	read := hub.Read()
	begin("cold", 2, false, "from an earlier start of this job")
	begin("another", 1, true, "compile cache: empty")
	err := cluster.Await(ctx, "the model among the node's attributes", func() string {
		nodes, _, err := c.Nomad.Nodes().List(nil)
		if err != nil || len(nodes) != 1 {
			return fmt.Sprintf("%d nodes, %v", len(nodes), err)
		}
		node, _, err := c.Nomad.Nodes().Info(nodes[0].ID, nil)
		if err != nil || node.Attributes["unique.cache.models"] != "hf://Qwen/Qwen3@main" {
			return fmt.Sprintf("%v, %v", node.Attributes["unique.cache.models"], err)
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
	seenBy, err := top.Cluster{Nomad: c.Nomad}.Snapshot(ctx)
	if i := slices.IndexFunc(seenBy.Starts, func(s top.Start) bool { return s.Job == "cold" }); err != nil || i < 0 || seenBy.Starts[i].Count != 2 || seenBy.Starts[i].Seconds["load"] <= 0 {
		t.Errorf("top shows starts %+v, %v", seenBy.Starts, err)
	}
	if again := hub.Read() - read; again != 0 {
		t.Errorf("%d bytes were read of the Hub again", again)
	}
}
