package aliquot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	containerapi "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// patience bounds every wait of a test; a condition is polled, never slept for.
const patience = 30 * time.Second

func await(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(20 * time.Millisecond); !met(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// engine connects to the real container engine, or skips the test.
func engine(t testing.TB) *client.Client {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make device nodes and to use the container engine")
	}
	c, err := engineAddress{}.client()
	if err == nil {
		_, err = c.Ping(t.Context())
	}
	if err != nil {
		t.Skipf("no container engine: scripts/setup installs and starts one (%v)", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// raced is set where the race detector watches the tests; it then watches the
// driver's own process too.
var raced bool

// races returns the reports of data races that the driver's processes wrote, but
// for those between the docker driver's own goroutines: its client negotiates the
// API version while another goroutine uses it.
func races(dir string) (out []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "race.*"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, report := range strings.Split(string(text), "==================") {
			accesses, _, _ := strings.Cut(report, "created at:")
			if strings.Contains(accesses, "aliquot.example/") {
				out = append(out, report)
			}
		}
	}
	return out
}

// built is the folder of build once a test has asked for it.
var built string

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "aliquot-driver-test-")
	if err != nil {
		return "", err
	}
	built = dir
	for target, source := range map[string]string{"aliquot-driver": "aliquot.example/cmd/aliquot-driver", "probe": "./testdata/probe"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, target))
		if raced && target == "aliquot-driver" {
			cmd.Args = append(cmd.Args, "-race")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		} else {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		cmd.Args = append(cmd.Args, source)
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go build %s: %w\n%s", source, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if os.Getenv("ALIQUOT_TEST_STAND_IN") != "" {
		os.Stdout.Write([]byte{'.'})
		io.Copy(io.Discard, os.Stdin)
		return
	}
	code := m.Run()
	if built != "" {
		for _, report := range races(built) {
			fmt.Println(report)
			code = 1
		}
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// probeImage imports the probe as an image with the given tags.
func probeImage(t testing.TB, c *client.Client, refs ...string) {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	w.Write(program)
	w.Close()
	for _, ref := range refs {
		out, err := c.ImageImport(t.Context(), image.ImportSource{Source: bytes.NewReader(archive.Bytes()), SourceName: "-"}, ref,
			image.ImportOptions{Changes: []string{`ENTRYPOINT ["/probe"]`, `ENV NVIDIA_VISIBLE_DEVICES=all`}})
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, out)
		out.Close()
		t.Cleanup(func() {
			c.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true})
		})
	}
}

// shipped is the built driver as Nomad runs it: a process behind go-plugin.
type shipped struct {
	drivers.DriverPlugin
	t      testing.TB
	client *plugin.Client
	engine *client.Client
	config string
	env    []string

	mu     sync.Mutex
	events []*drivers.TaskEvent
}

// ship starts the driver with the content of its config block as HCL in JSON.
func ship(t testing.TB, config string, env ...string) *shipped {
	t.Helper()
	s := &shipped{t: t, engine: engine(t), config: config, env: env}
	s.launch()
	t.Cleanup(func() { s.client.Kill() })
	return s
}

func (s *shipped) launch() {
	s.t.Helper()
	dir, err := build()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "aliquot-driver"))
	cmd.Env = append(append(os.Environ(), "GORACE=exitcode=0 log_path="+filepath.Join(dir, "race")), s.env...)
	log := hclog.New(&hclog.LoggerOptions{Name: "driver", Level: hclog.Error, Output: s.t.Output()})
	s.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: base.Handshake, Cmd: cmd, SkipHostEnv: true, Logger: log, AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Plugins: map[string]plugin.Plugin{base.PluginTypeBase: &base.PluginBase{}, base.PluginTypeDriver: drivers.NewDriverPlugin(nil, log)},
	})
	rpc, err := s.client.Client()
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := rpc.Dispense(base.PluginTypeDriver)
	if err != nil {
		s.t.Fatal(err)
	}
	s.DriverPlugin = raw.(drivers.DriverPlugin)
	if err := s.configure(s.config); err != nil {
		s.t.Fatal(err)
	}
	fingerprints, err := s.Fingerprint(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if fp := <-fingerprints; fp == nil || fp.Health != drivers.HealthStateHealthy {
		s.t.Fatalf("the driver is not healthy: %+v", fp)
	}
	events, err := s.TaskEvents(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		for e := range events {
			s.mu.Lock()
			s.events = append(s.events, e)
			s.mu.Unlock()
		}
	}()
}

// relaunch kills the driver as a crash would and starts it again.
func (s *shipped) relaunch() {
	s.t.Helper()
	s.client.Kill()
	s.mu.Lock()
	s.events = nil
	s.mu.Unlock()
	s.launch()
}

func (s *shipped) configure(config string) error {
	schema, err := s.ConfigSchema()
	if err != nil {
		s.t.Fatal(err)
	}
	encoded, err := encode(schema, config)
	if err != nil {
		return err
	}
	return s.SetConfig(&base.Config{ApiVersion: drivers.ApiVersion010, PluginConfig: encoded, AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}})
}

// encode decodes a config block, given as Nomad hands it on, through a schema and
// encodes it for a plugin, as the Nomad client does.
func encode(schema *hclspec.Spec, config string) ([]byte, error) {
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return nil, diags
	}
	var raw map[string]any
	if err := json.Unmarshal([]byte(config), &raw); err != nil {
		return nil, fmt.Errorf("%w in %s", err, config)
	}
	value, _, errs := hclutils.ParseHclInterface(raw, spec, nil)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return msgpack.Marshal(value, value.Type())
}

// job makes a task as the Nomad client would; deviceEnv is Reserve's answer.
func (s *shipped) job(config string, deviceEnv, env map[string]string) *drivers.TaskConfig {
	s.t.Helper()
	schema, err := s.TaskConfigSchema()
	if err != nil {
		s.t.Fatal(err)
	}
	return newJob(s.t, schema, config, deviceEnv, env)
}

func newJob(t testing.TB, schema *hclspec.Spec, config string, deviceEnv, env map[string]string) *drivers.TaskConfig {
	t.Helper()
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var raw map[string]any
	if err := json.Unmarshal([]byte(config), &raw); err != nil {
		t.Fatal(err)
	}
	value, _, errs := hclutils.ParseHclInterface(raw, spec, nil)
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	dir := t.TempDir()
	for _, d := range []string{"alloc/data", "alloc/logs", "alloc/tmp", "task/local", "task/secrets", "task/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID: fmt.Sprintf("%s/task/%s", alloc, uuid.Short()), AllocID: alloc, Name: "task", JobName: "test", TaskGroupName: "group",
		AllocDir: dir, StdoutPath: os.DevNull, StderrPath: os.DevNull, DeviceEnv: deviceEnv,
		Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 64}},
			LinuxResources: &drivers.LinuxResources{CPUShares: 100, MemoryLimitBytes: 64 << 20},
		},
	}
	// As Nomad merges them: the job's environment lies under the device plugin's,
	// a template's over it. Tests give env the place of the template.
	for _, layer := range []map[string]string{deviceEnv, env} {
		for k, v := range layer {
			cfg.Env[k] = v
		}
	}
	if err := cfg.EncodeDriverConfig(value); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// run starts a task and ends it with the test.
func (s *shipped) run(cfg *drivers.TaskConfig) *drivers.TaskHandle {
	s.t.Helper()
	handle, _, err := s.StartTask(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := s.DestroyTask(cfg.ID, true); err != nil && !strings.Contains(err.Error(), "not found") {
			s.t.Errorf("DestroyTask: %v", err)
		}
	})
	return handle
}

func (s *shipped) logs(cfg *drivers.TaskConfig) string {
	r, err := s.engine.ContainerLogs(s.t.Context(), "task-"+cfg.AllocID, containerapi.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return ""
	}
	defer r.Close()
	var out bytes.Buffer
	stdcopy.StdCopy(&out, &out, r)
	return out.String()
}

// seen returns what the container reports of itself.
func (s *shipped) seen(t *testing.T, cfg *drivers.TaskConfig) (r struct {
	Args   []string
	Env    map[string]string
	Nodes  []string
	Mounts []string
	Groups []int
}) {
	t.Helper()
	await(t, "a report of the container", func() bool {
		line, _, whole := strings.Cut(s.logs(cfg), "\n")
		return whole && json.Unmarshal([]byte(line), &r) == nil
	})
	return r
}

// event waits for an event that contains every part.
func (s *shipped) event(t *testing.T, parts ...string) *drivers.TaskEvent {
	t.Helper()
	var found *drivers.TaskEvent
	var all []string
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		s.mu.Lock()
		all = all[:0]
		for _, e := range s.events {
			all = append(all, e.Message)
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(e.Message, p) }) {
				found = e
			}
		}
		s.mu.Unlock()
		if found != nil {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("no event with %q in %q", parts, all)
		}
	}
}
