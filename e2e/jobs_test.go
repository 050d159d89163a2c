package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/reference"
)

const (
	vllmJob    = "jobs/vllm.nomad.hcl"
	tritonJob  = "jobs/triton.nomad.hcl"
	prepullJob = "jobs/prepull.nomad.hcl"
)

// TestModelJobs submits the job files for model servers on a node with GPUs of both vendors. The
// model server runs under the names of vLLM and Triton, and accepts only the flags that the files
// use.
func TestModelJobs(t *testing.T) {
	models := t.TempDir()
	if err := os.Mkdir(filepath.Join(models, "resnet"), 0o755); err != nil {
		t.Fatal(err)
	}
	nvidia, amd := freeAddress(t), freeAddress(t)
	const metrics = "metrics_address = %q"
	ctx, c := start(t, cluster.Options{
		Rack: "h100", Device: fmt.Sprintf(metrics, nvidia),
		AMD:      &cluster.AMD{GPUs: rack.AMDHost(rack.MI300X, 1, "", ""), Release: "26.5", Device: fmt.Sprintf(metrics, amd)},
		Registry: true, Volumes: map[string]string{"triton-models": models},
	})
	t.Run("images are pulled beforehand", func(t *testing.T) { prepull(ctx, t, c) })
	t.Run("vLLM on both vendors", func(t *testing.T) { vllm(ctx, t, c, nvidia, amd) })
	t.Run("Triton", func(t *testing.T) { triton(ctx, t, c) })
	t.Run("one plan for both vendors", func(t *testing.T) { vllmScales(ctx, t, c) })
}

func prepull(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	images := []string{c.Image + ":nvidia", c.Image + ":amd"}
	here := func(image string) bool {
		return exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil
	}
	if slices.ContainsFunc(images, here) {
		t.Fatalf("one of %v is here before it was pulled", images)
	}
	job, err := c.Run(prepullJob, cluster.Vars{
		"images": map[string][]string{"nvidia": {images[0]}, "amd": {images[1]}, "amd/other": {images[0]}}, "at_once": 1, "driver": "raw_exec",
		"program": c.Program("aliquot"), "consul": strings.TrimPrefix(c.ConsulAddress, "http://"),
	})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	// Only a system job runs on nodes that join later.
	if *job.Type != "system" {
		t.Errorf("the job is of type %s", *job.Type)
	}
	// Only one node pulls at a time, so the second group runs only if the first released its turn.
	// No node has the class of the third.
	if _, err := c.AwaitRunning(ctx, *job.ID, 2); err != nil {
		t.Fatal(err)
	}
	err = cluster.AwaitWithin(ctx, 90*time.Second, "the images", func() string {
		if i := slices.IndexFunc(images, func(image string) bool { return !here(image) }); i >= 0 {
			return images[i] + " was not pulled"
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

// vllmVars are the settings of vllmJob that do not change within the test.
func vllmVars(c *cluster.Cluster, more cluster.Vars) cluster.Vars {
	vars := cluster.Vars{"image_cuda": c.Image + ":nvidia", "image_rocm": c.Image + ":amd", "cpu": 100, "memory": 128}
	for name, value := range more {
		vars[name] = value
	}
	return vars
}

func vllm(ctx context.Context, t *testing.T, c *cluster.Cluster, metrics ...string) {
	allocs := run(ctx, t, c, vllmJob, vllmVars(c, cluster.Vars{"nvidia_count": 1, "amd_count": 1, "models": "triton-models", "max_model_len": 4096, "kv_tokens": 50000}), 2)
	for group, info := range infos(ctx, t, c, allocs) {
		if info.Grant == nil || info.Variant != group || string(info.Grant.Vendor) != group || info.Grant.Slices != 10 || info.Slots != 256 || info.Model != "chat" {
			t.Errorf("group %s: %+v", group, info)
		}
		if !slices.Contains(info.Mounts, "/models") {
			t.Errorf("group %s: no volume at /models in %v", group, info.Mounts)
		}
	}
	for _, alloc := range allocs {
		if alloc.TaskGroup == "nvidia" {
			if _, err := c.AwaitEvent(ctx, alloc.ID, "GPU attachment verified"); err != nil {
				t.Error(err)
			}
		}
	}
	classes := map[string]bool{}
	for _, e := range healthyInstances(ctx, t, c, "chat", 2) {
		classes[e.Service.Meta["gpu_class"]] = true
		if m := e.Service.Meta; m["aliquot_route"] != "true" || m["concurrency"] != "256" || m["kv_tokens"] != "50000" || m["max_model_len"] != "4096" || m["aliquot_slices"] != "10" || m["aliquot_slices_total"] != "20" || m["aliquot_weight"] == "" {
			t.Errorf("meta in Consul: %v", m)
		}
		ask(ctx, t, e, "/v1/chat/completions", `{"model":"chat","messages":[{"role":"user","content":"hello"}],"max_tokens":2}`, "chat.completion")
	}
	if !classes["h100"] || !classes["mi300x"] {
		t.Errorf("classes in Consul: %v", classes)
	}
	deviceMetrics(ctx, t, metrics)
}

// deviceMetrics compares docs/operations.md with the metrics of both vendors' device plugins while
// tasks run.
func deviceMetrics(ctx context.Context, t *testing.T, addresses []string) {
	page := reference.Documented(t, "aliquot_device_", "aliquot_gpu_", "aliquot_task_")
	err := cluster.AwaitWithin(ctx, 30*time.Second, "the documented metrics of devices", func() string {
		var names []string
		for _, address := range addresses {
			response, err := http.Get("http://" + address + "/metrics")
			if err != nil {
				return err.Error()
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				return err.Error()
			}
			for _, m := range regexp.MustCompile(`(?m)^# TYPE (aliquot_\S+)`).FindAllStringSubmatch(string(text), -1) {
				names = append(names, m[1])
			}
		}
		slices.Sort(names)
		if names = slices.Compact(names); !slices.Equal(names, page) {
			return fmt.Sprintf("the page lists %v, the plugins export %v", page, names)
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

// freeAddress returns a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func triton(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, tritonJob, cluster.Vars{"image": c.Image + ":nvidia", "cpu": 100, "memory": 128}, 1)
	if _, err := c.AwaitEvent(ctx, allocs[0].ID, "GPU attachment verified"); err != nil {
		t.Error(err)
	}
	for _, e := range healthyInstances(ctx, t, c, "vision", 1) {
		ask(ctx, t, e, "/v2/models/resnet/infer", `{"inputs":[]}`, `"model_name":"resnet"`)
	}
	address, err := cluster.Address(allocs[0], "metrics")
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("metrics: %s", response.Status)
	}
}

// vllmScales follows the load from zero to both groups and back.
func vllmScales(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	s := &scaling{c: c, gateway: startScalingGateway(ctx, t, c)}
	s.startAutoscaler(ctx, t)
	job, err := c.Run(vllmJob, vllmVars(c, cluster.Vars{"service": "mix", "concurrency": 2, "max_count": 1, "strategy": soon}))
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	s.awaitEvaluations(ctx, t, "mix", 2)
	// One request needs two slots at 90%; the vendor that is named first provides them.
	stopOne := s.load(ctx, t, "mix", 1)
	defer stopOne()
	s.awaitCount(ctx, t, "mix", "nvidia", 1, 30*time.Second)
	if got := s.group("mix", "amd").Desired; got != 0 {
		t.Errorf("one request: %d on AMD, want none", got)
	}
	stopMore := s.load(ctx, t, "mix", 2)
	defer stopMore()
	s.awaitCount(ctx, t, "mix", "amd", 1, 30*time.Second)
	if _, err := c.AwaitRunning(ctx, "mix", 2); err != nil {
		t.Fatal(err)
	}
	stopMore()
	stopOne()
	for _, group := range []string{"nvidia", "amd"} {
		s.awaitCount(ctx, t, "mix", group, 0, 90*time.Second)
	}
}

// healthyInstances waits for want instances of a service whose checks pass.
func healthyInstances(ctx context.Context, t *testing.T, c *cluster.Cluster, service string, want int) (found []*api.ServiceEntry) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 60*time.Second, "healthy instances of "+service, func() (missing string) {
		var err error
		if found, _, err = c.Consul.Health().Service(service, "", true, nil); err != nil || len(found) != want {
			return fmt.Sprintf("there are %d of %d, %v", len(found), want, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// ask sends a request to an instance. The answer must contain text.
func ask(ctx context.Context, t *testing.T, e *api.ServiceEntry, path, body, text string) {
	t.Helper()
	url := fmt.Sprintf("http://%s:%d%s", e.Service.Address, e.Service.Port, path)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(answer), text) || !json.Valid(answer) {
		t.Errorf("%s: %s %s %v, want %q", url, response.Status, answer, err, text)
	}
}
