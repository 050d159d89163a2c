package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/cache/certtest"
	"aliquot.example/cache/hubtest"
	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/ports"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/top"
)

// TestCacheJob runs the cache from its job file, starts tasks from it, and reads a model through
// the Hub's API, from the store once the Hub is gone.
func TestCacheJob(t *testing.T) {
	hub, stop := hubtest.Start()
	defer stop()
	body := hubtest.Bytes(1, 20<<20)
	sha := hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"config.json": {Body: []byte("{}")}, "model.safetensors": {Body: body, LFS: true}})
	dir := t.TempDir()
	ctx, c := start(t, cluster.Options{Rack: "h100", Registry: true, Driver: fmt.Sprintf("cache_socket = %q", filepath.Join(dir, "${node}.s"))})
	ca := certtest.New(t)
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Run("jobs/cache.nomad.hcl", cluster.Vars{
		"consul": c.ConsulAddress[len("http://"):], "tls": certificates(t, ca), "hf_port": port, "prefetch": []string{"all", "gpus"},
		"settings": cacheSettings(dir, "node", hub.URL),
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
	coldStarts(ctx, t, c, hub, func() { secondNode(ctx, t, c, ca, dir, hub.URL) })
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

// cacheSettings returns the configuration of one node's cache.
func cacheSettings(dir, node, hub string) string {
	return fmt.Sprintf("dir = %q\nsocket = %q\nkeep_free = \"0\"\nhuggingface { endpoint = %q }\n", filepath.Join(dir, node), filepath.Join(dir, node+".s"), hub)
}

// certificates creates the directory of a cache's certificates.
func certificates(t *testing.T, ca *certtest.Authority) string {
	t.Helper()
	cert, _ := ca.Issue(t, "aliquot-cache")
	dir := filepath.Dir(cert)
	if err := os.Symlink(ca.File, filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// secondNode starts another Nomad client, with other GPUs, and its cache. A Consul agent serves
// only one client, so jobs with a Consul service are not placed there, and the cache registers
// itself.
func secondNode(ctx context.Context, t *testing.T, c *cluster.Cluster, ca *certtest.Authority, dir, hub string) {
	t.Helper()
	if err := c.AddClient(ctx, "second", "h100-t4"); err != nil {
		t.Fatal(err)
	}
	own, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	tls, file := certificates(t, ca), filepath.Join(dir, "second.hcl")
	conf := cacheSettings(dir, "second", hub) + fmt.Sprintf(`
hf_listen = "127.0.0.1:0"
admin     = ""
consul {
  address = %q
}
peer {
  listen    = "127.0.0.1:%d"
  ca_file   = "%[3]s/ca.pem"
  cert_file = "%[3]s/cert.pem"
  key_file  = "%[3]s/key.pem"
}
`, strings.TrimPrefix(c.ConsulAddress, "http://"), own[0], tls)
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(c.Program("aliquot"), "cache", "-config", file)
	run.Stdout, run.Stderr = t.Output(), t.Output()
	run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Signal(syscall.SIGTERM)
		_ = run.Wait()
	})
	for _, node := range []string{"node", "second"} {
		api := cacheapi.NewClient(filepath.Join(dir, node+".s"))
		err := cluster.Await(ctx, "the peers of the cache of "+node, func() string {
			s, err := api.Status(ctx)
			if err != nil || len(s.Peers) != 2 {
				return fmt.Sprintf("%v, %v", s.Peers, err)
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// coldJob serves a model that no node has cached, with kernels that no node has compiled. Each
// allocation gets another port.
const coldJob = `
variable "name" {}
variable "image" {}
variable "count" { type = number }
variable "gpu" {}
variable "namespace" { default = "default" }

job "cold" {
  id        = var.name
  name      = var.name
  namespace = var.namespace
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
        ready_check           = "http/health"
        compile_cache_settle  = "1s"
      }
      resources {
        cpu    = 50
        memory = 64
        dynamic "device" {
          for_each = [8]
          labels   = [var.gpu]
          content { count = device.value }
        }
      }
    }
  }
}`

// coldStarts starts a service whose model and kernels are cached nowhere. The next replica on the
// node reads nothing from the Hub and compiles nothing; a replica on another node gets both from
// the first. Other jobs, namespaces and GPUs compile for themselves.
func coldStarts(ctx context.Context, t *testing.T, c *cluster.Cluster, hub *hubtest.Hub, secondNode func()) {
	k := cold{c: c, gpu: "nvidia/gpu/h100-0", seen: map[string]bool{}}
	k.begin(ctx, t, "cold", 1, true, "is pulled", "are kept for the next start of this job")
	read := hub.Read()
	k.begin(ctx, t, "cold", 2, false, "from an earlier start of this job")
	if err := cluster.Await(ctx, "the model among the node's attributes", func() string { return k.holds("node", "hf://Qwen/Qwen3@main") }); err != nil {
		t.Error(err)
	}
	k.showsParts(ctx, t)
	k.prefetches(ctx, t)
	secondNode()
	k.begin(ctx, t, "cold", 3, false, "from an earlier start of this job", "from 1 peers")
	if k.last.NodeName != "second" {
		t.Errorf("the third replica is on %s", k.last.NodeName)
	}
	k.begin(ctx, t, "another", 1, true, "compile cache: empty")
	if err := c.Purge(ctx, "another"); err != nil {
		t.Fatal(err)
	}
	k.inNamespace(ctx, t)
	// The same job on another kind of GPU with the same driver.
	k.gpu = "nvidia/gpu/t4-1"
	k.begin(ctx, t, "cold", 1, true, "compile cache: empty")
	if again := hub.Read() - read; again != 0 {
		t.Errorf("%d bytes were read of the Hub again", again)
	}
}

// cold is a cluster in which the cold job starts.
type cold struct {
	c    *cluster.Cluster
	gpu  string          // the device that it requests
	seen map[string]bool // allocations
	last *nomad.Allocation
}

// begin scales a job to count replicas and checks the new ones.
func (k *cold) begin(ctx context.Context, t *testing.T, name string, count int, compiles bool, events ...string) {
	t.Helper()
	job, err := k.c.RunText(coldJob, cluster.Vars{"name": name, "image": k.c.Image, "count": count, "gpu": k.gpu})
	if err != nil {
		t.Fatal(err)
	}
	if len(k.seen) == 0 {
		purge(ctx, t, k.c, *job.ID)
	}
	allocs, err := k.c.AwaitRunning(ctx, *job.ID, count)
	if err != nil {
		t.Fatal(err)
	}
	for _, alloc := range allocs {
		if k.seen[alloc.ID] {
			continue
		}
		k.seen[alloc.ID], k.last = true, alloc
		info, err := k.c.Info(ctx, alloc)
		if err != nil {
			t.Fatal(err)
		}
		if info.Compiled != compiles || info.Environment["HF_HUB_OFFLINE"] != "1" || info.Grant == nil {
			t.Errorf("%s: compiled %v, want %v; %v", alloc.Name, info.Compiled, compiles, info.Environment)
		}
		if !slices.Contains(info.Mounts, "/aliquot/models/hub/models--Qwen--Qwen3") {
			t.Errorf("%s: the model is not among %v", alloc.Name, info.Mounts)
		}
		for _, text := range append(events, "model hf://Qwen/Qwen3@main is on the node", "until the task is ready: image") {
			said, err := k.c.AwaitEvent(ctx, alloc.ID, text)
			if err != nil {
				t.Error(err)
			}
			t.Logf("%s: %s", alloc.Name, said)
		}
	}
}

// holds returns what is missing until a node names a model in its attributes, or "".
func (k *cold) holds(name, model string) string {
	nodes, _, err := k.c.Nomad.Nodes().List(nil)
	if err != nil {
		return err.Error()
	}
	i := slices.IndexFunc(nodes, func(n *nomad.NodeListStub) bool { return n.Name == name })
	if i < 0 {
		return "there is no node " + name
	}
	node, _, err := k.c.Nomad.Nodes().Info(nodes[i].ID, nil)
	if err != nil || node.Attributes["unique.cache.models"] != model {
		return fmt.Sprintf("%v, %v", node.Attributes["unique.cache.models"], err)
	}
	return ""
}

// showsParts checks that aliquot top shows the parts of the starts.
func (k *cold) showsParts(ctx context.Context, t *testing.T) {
	t.Helper()
	seen, err := top.Cluster{Nomad: k.c.Nomad}.Snapshot(ctx)
	i := slices.IndexFunc(seen.Starts, func(s top.Start) bool { return s.Job == "cold" })
	if err != nil || i < 0 || seen.Starts[i].Count != 2 || seen.Starts[i].Seconds["load"] <= 0 || seen.Starts[i].Seconds["image"] <= 0 {
		t.Errorf("top shows starts %+v, %v", seen.Starts, err)
	}
}

// prefetches puts the job's image, model and compiled kernels on the prefetch list: an image that
// no task of the node has used is pulled, and the model and the kernels stay cached for the list.
func (k *cold) prefetches(ctx context.Context, t *testing.T) {
	t.Helper()
	run := exec.CommandContext(ctx, k.c.Program("aliquot"), "cache", "prefetch", "-group=gpus", "-job=cold", "-vendor=amd")
	run.Env = append(os.Environ(), "NOMAD_ADDR="+k.c.NomadAddress, "CONSUL_HTTP_ADDR="+k.c.ConsulAddress)
	out, err := run.CombinedOutput()
	image := k.c.Image + ":amd"
	if want := "compiled://default/cold\nhf://Qwen/Qwen3@main\nimage://" + image + "\n"; err != nil || string(out) != want {
		t.Fatalf("the list is %q, %v; want %q", out, err, want)
	}
	err = cluster.Await(ctx, "image "+image, func() string {
		if out, err := exec.CommandContext(ctx, "docker", "image", "inspect", image).CombinedOutput(); err != nil {
			return string(out)
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

// inNamespace runs the job under its own name in another namespace.
func (k *cold) inNamespace(ctx context.Context, t *testing.T) {
	t.Helper()
	const other = "other"
	if _, err := k.c.Nomad.Namespaces().Register(&nomad.Namespace{Name: other}, nil); err != nil {
		t.Fatal(err)
	}
	job, err := k.c.RunText(coldJob, cluster.Vars{"name": "cold", "image": k.c.Image, "count": 1, "gpu": k.gpu, "namespace": other})
	if err != nil {
		t.Fatal(err)
	}
	in := &nomad.WriteOptions{Namespace: other}
	defer func() {
		if _, _, err := k.c.Nomad.Jobs().Deregister(*job.ID, true, in); err != nil {
			t.Error(err)
		}
	}()
	var alloc string
	err = cluster.Await(ctx, "an allocation in another namespace", func() string {
		stubs, _, err := k.c.Nomad.Jobs().Allocations(*job.ID, true, &nomad.QueryOptions{Namespace: other})
		if err != nil || len(stubs) == 0 {
			return fmt.Sprintf("%d, %v", len(stubs), err)
		}
		alloc = stubs[0].ID
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if said, err := k.c.AwaitEvent(ctx, alloc, "compile cache:"); err != nil || !strings.Contains(said, "empty, this job has compiled nothing yet") {
		t.Errorf("in another namespace: %q, %v", said, err)
	}
}
