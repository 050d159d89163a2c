package aliquot

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/compiled"
)

// compiler is a task that compiles where its cache is empty, in a job.
func (s *shipped) compiler(job, by, more string) *drivers.TaskConfig {
	cfg := s.job(fmt.Sprintf(`{"image": %q, "network_mode": "none", "args": ["compile", %q], "compile_cache": true, "compile_cache_settle": "400ms"%s}`, probeRef, by, more), nil, nil)
	cfg.Namespace, cfg.JobID = "default", job
	return cfg
}

// kernel runs a task and returns whose kernel it uses.
func (s *shipped) kernel(t *testing.T, cfg *drivers.TaskConfig) string {
	t.Helper()
	s.run(cfg)
	var by string
	await(t, "a kernel", func() bool {
		_, rest, ok := strings.Cut(s.logs(cfg), `kernel "compiled by `)
		by, _, _ = strings.Cut(rest, `"`)
		return ok
	})
	return by
}

// The second start of a job finds what the first compiled, another job does not, and a
// copy belongs to one task.
func TestCompileCaches(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	t.Cleanup(n.start())
	s := ship(t, n.config())
	// Arguments are part of the key; a port is not.
	first := s.compiler("one", "23456", "")
	first.Env["NOMAD_PORT_http"] = "23456"
	handle := s.run(first)
	s.event(t, "compile cache: empty, this job has compiled nothing yet")
	s.relaunch() // the driver may be killed before it has published
	if err := s.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	s.event(t, "compile cache: 1 files", "are kept for the next start")

	second := s.compiler("one", "34567", "")
	second.Env["NOMAD_PORT_http"] = "34567"
	if by := s.kernel(t, second); by != "23456" {
		t.Errorf("the second start uses the kernel of %s", by)
	}
	s.event(t, "compile cache: 1 files", "from an earlier start of this job")
	kernel := filepath.Join(second.TaskDir().Dir, compiledDir, "triton", "kernel.so")
	if _, err := os.Lstat(kernel + ".link"); err == nil {
		t.Error("a link was published")
	}
	// What one task does to its copy no other sees.
	if err := os.WriteFile(kernel, []byte("compiled by poison"), 0o755); err != nil {
		t.Fatal(err)
	}
	third := s.compiler("one", "45678", "")
	third.Env["NOMAD_PORT_http"] = "45678"
	if by := s.kernel(t, third); by != "23456" {
		t.Errorf("a later start uses the kernel of %s", by)
	}
	for what, change := range map[string]func(*drivers.TaskConfig){
		"job": func(c *drivers.TaskConfig) { c.JobID = "two" }, "namespace": func(c *drivers.TaskConfig) { c.Namespace = "other" },
		"environment": func(c *drivers.TaskConfig) { c.Env["VLLM_X"] = "1" },
	} {
		cfg := s.compiler("one", "other", "")
		cfg.Env["NOMAD_PORT_http"] = "other"
		change(cfg)
		if by := s.kernel(t, cfg); by != "other" {
			t.Errorf("another %s uses the kernel of %s", what, by)
		}
	}
	seen := s.seen(t, third)
	for name, want := range compiled.Places(compiledRoot) {
		if seen.Env[name] != want {
			t.Errorf("%s is %q", name, seen.Env[name])
		}
	}
}

// The drivers and architectures of GPUs never share.
func TestKeysFollowTheGrant(t *testing.T) {
	set, err := mustSettings(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	r := nvidiaTree(t)
	set.host, set.attach = attachSettings(r, AttachNodes).host, AttachNodes
	_, schema := schemas(t)
	sum := func(change map[string]string) string {
		env := reserved(wholeGrant())
		for k, v := range change {
			env[k] = v
		}
		cfg := newJob(t, schema, `{"image": "x:1", "compile_cache": true}`, env, nil)
		cfg.Namespace, cfg.JobID = "default", "job"
		s, err := set.prepare(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		k := keyOf(cfg, &s, nil, "sha256:1")
		if err := k.Check(); err != nil {
			t.Fatal(err)
		}
		return k.Sum()
	}
	same := sum(nil)
	if sum(nil) != same {
		t.Error("one task has two keys")
	}
	for name, value := range map[string]string{"ALIQUOT_GPU_TARGET": "12.0", "ALIQUOT_GPU_DRIVER": "999.1"} {
		if sum(map[string]string{name: value}) == same {
			t.Errorf("the key of another %s is the same", name)
		}
	}
}

// A cache that is away, or gives nothing, keeps no task from starting.
func TestCompileCachesAreNoConditionOfAStart(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	s := ship(t, newCache(t, "").config())
	if by := s.kernel(t, s.compiler("one", "me", "")); by != "me" {
		t.Errorf("the kernel is of %s", by)
	}
	s.event(t, "compile cache: empty: the node's cache does not answer")
}

// Nothing is published before the task is healthy.
func TestIllTasksPublishNothing(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	t.Cleanup(n.start())
	s := ship(t, n.config())
	var healthy, asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); healthy.Load() == 0 || r.URL.Path != "/health" {
			http.Redirect(w, r, "http://"+r.Host+"/other", http.StatusFound)
		}
	}))
	defer server.Close()
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	number, _ := strconv.Atoi(port)
	cfg := s.compiler("one", "me", `, "ready_check": "http/health"`)
	cfg.Resources.Ports = &structs.AllocatedPorts{{Label: "http", HostIP: host, Value: number}}
	s.run(cfg)
	await(t, "checks for longer than files have to rest", func() bool { return asked.Load() > 8 })
	if status, err := n.Status(t.Context()); err != nil || status.Objects != 0 {
		t.Errorf("an ill task published: %+v, %v", status, err)
	}
	healthy.Store(1)
	s.event(t, "are kept for the next start")
}

func TestBadCompileCachesNameKeyValueAndFix(t *testing.T) {
	_, schema := schemas(t)
	set, err := mustSettings(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`"compile_cache_settle": "0s"`:                                  `compile_cache_settle is "0s": want a duration above zero`,
		`"ready_check": "health"`:                                       `ready_check is "health": want a port's label and a path`,
		`"ready_check": "none/health"`:                                  `ready_check is "none/health": want a port's label`,
		`"mount": [{"type": "tmpfs", "target": "/aliquot/compiled/x"}]`: `mounts something at /aliquot/compiled/x`,
	} {
		_, err := set.prepare(newJob(t, schema, `{"image": "x:1", "compile_cache": true, `+text+`}`, nil, nil), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// An image that only the docker driver can have, by a file or with credentials, is known
// after the start: what is compiled then is kept for the next.
func TestImagesThatAreKnownLate(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	t.Cleanup(n.start())
	saved, err := c.ImageSave(t.Context(), []string{probeRef})
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	archive, err := io.ReadAll(saved)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ImageRemove(t.Context(), probeRef, image.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	s := ship(t, n.config())
	load := func() *drivers.TaskConfig {
		cfg := s.compiler("one", "x", `, "load": "image.tar"`)
		cfg.Env["VLLM_X"] = "1"
		if err := os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "image.tar"), archive, 0o644); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	s.run(load())
	s.event(t, "compile cache: empty at this start: the digest of image "+probeRef)
	s.event(t, "are kept for the next start")
	s.run(load())
	s.event(t, "from an earlier start of this job")
}
