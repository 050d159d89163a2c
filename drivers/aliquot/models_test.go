package aliquot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/cache"
	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

const qwen = "hf://Qwen/Qwen3@main"

// nodeCache is a real cache beside the driver of a test, and the Hub that it reads.
type nodeCache struct {
	*cacheapi.Client
	hub   *hubtest.Hub
	sha   string
	dir   string
	start func() (stop func())
}

// newCache starts a cache that has nothing yet. more are further settings.
func newCache(t testing.TB, more string) *nodeCache {
	t.Helper()
	hub, stop := hubtest.Start()
	t.Cleanup(stop)
	c := &nodeCache{hub: hub, dir: t.TempDir()}
	c.sha = hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{
		"config.json": {Body: []byte("{}")}, "model.safetensors": {Body: hubtest.Bytes(1, 20<<20), LFS: true},
	})
	c.Client = cacheapi.NewClient(c.socket())
	conf, err := config.Parse([]byte(fmt.Sprintf("dir = %q\nsocket = %q\nhf_listen = \"127.0.0.1:0\"\nadmin = \"\"\nkeep_free = \"0\"\nhuggingface { endpoint = %q }\n%s",
		filepath.Join(c.dir, "store"), c.socket(), hub.URL, more)), "test")
	if err != nil {
		t.Fatal(err)
	}
	c.start = func() func() {
		d, err := cache.Start(context.WithoutCancel(t.Context()), conf, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			t.Fatal(err)
		}
		return d.Close
	}
	return c
}

func (c *nodeCache) socket() string { return filepath.Join(c.dir, "socket") }

// config is the driver's.
func (c *nodeCache) config() string { return fmt.Sprintf(`{"cache_socket": %q}`, c.socket()) }

// pins are the owners of pins.
func (c *nodeCache) pins(t *testing.T) (owners []string) {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for owner := range s.Pins {
		owners = append(owners, owner)
	}
	return owners
}

const probeRef = "aliquot-test/models:1"

// modelTask is a task that reads a file of a model and stays.
func modelTask(network, read, more string) string {
	return fmt.Sprintf(`{"image": %q, "network_mode": %q, "args": ["read", %q], "models": [%q]%s}`, probeRef, network, read, qwen, more)
}

func TestWholeModelsAreMounted(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	t.Cleanup(n.start())
	s := ship(t, n.config())
	file := modelsRoot + "/hub/models--Qwen--Qwen3/snapshots/" + n.sha + "/config.json"
	var handles []*drivers.TaskHandle
	for range 2 {
		cfg := s.job(modelTask("none", file, ""), nil, nil)
		handles = append(handles, s.run(cfg))
		await(t, "the file in the container", func() bool { return strings.Contains(s.logs(cfg), `read "{}" <nil>`) })
		seen := s.seen(t, cfg)
		if seen.Env["HF_HUB_OFFLINE"] != "1" || seen.Env["HF_HUB_CACHE"] != modelsRoot+"/hub" || seen.Env[envModels] != modelsRoot || seen.Env["HF_ENDPOINT"] != "" {
			t.Errorf("the environment is %v", seen.Env)
		}
		if !slices.Contains(seen.Mounts, modelsRoot+"/hub/models--Qwen--Qwen3 ro") {
			t.Errorf("no read-only mount in %v", seen.Mounts)
		}
		s.event(t, "model "+qwen, "is on the node: 21.0 MB")
	}
	if read := n.hub.Read(); read != 20<<20+2 {
		t.Errorf("two tasks read %d bytes of the Hub", read)
	}
	if got := n.pins(t); len(got) != 2 {
		t.Errorf("pinned by %v", got)
	}
	s.relaunch()
	for _, handle := range handles {
		if err := s.RecoverTask(handle); err != nil {
			t.Error(err)
		}
	}
	if got := n.pins(t); len(got) != 2 {
		t.Errorf("after a restart of the driver it is pinned by %v", got)
	}
}

// A pin ends with its task, also where the cache or the driver was away at that moment.
func TestPinsEndWithTheirTasks(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	stop := n.start()
	s := ship(t, n.config())
	first, second := s.job(modelTask("none", "/x", ""), nil, nil), s.job(modelTask("none", "/x", ""), nil, nil)
	handle := s.run(first)
	s.run(second)
	if err := s.DestroyTask(second.ID, true); err != nil {
		t.Fatal(err)
	}
	await(t, "one pin", func() bool { return len(n.pins(t)) == 1 })
	s.relaunch()
	if err := s.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := s.DestroyTask(first.ID, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.start())
	await(t, "no pin", func() bool { return len(n.pins(t)) == 0 })

	// What no driver saw end is found at the second look, and nothing else.
	third := s.job(modelTask("none", "/x", ""), nil, nil)
	s.run(third)
	lost := "11111111-2222-3333-4444-555555555555-task-12345678"
	for _, owner := range []string{lost, "somebody"} {
		if _, err := n.Fetch(t.Context(), cacheapi.Fetch{Model: qwen, Owner: owner}); err != nil {
			t.Fatal(err)
		}
	}
	d := unstarted(t)
	d.set = settings{cacheSocket: n.socket()}
	suspects, err := d.reapPins(t.Context(), nil)
	if err != nil || len(suspects) != 1 || !suspects[lost] {
		t.Fatalf("suspects are %v, %v", suspects, err)
	}
	if _, err := d.reapPins(t.Context(), suspects); err != nil {
		t.Fatal(err)
	}
	want := []string{ownerOf(third.ID), "somebody"}
	if got := n.pins(t); len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
		t.Errorf("pinned by %v, want %v", got, want)
	}
}

// stalledCache returns a cache whose Hub sends nothing until stall is closed, and a driver with it.
func stalledCache(t *testing.T) (n *nodeCache, s *shipped, stall chan struct{}) {
	probeImage(t, engine(t), probeRef)
	n = newCache(t, "")
	t.Cleanup(n.start())
	stall = make(chan struct{})
	n.hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	return n, ship(t, n.config()), stall
}

// A task whose model is not whole starts with the cache's endpoint of the Hub, and what it
// fetches goes on over a restart of the driver.
func TestIncompleteModelsAreReadThroughTheEndpoint(t *testing.T) {
	n, s, stall := stalledCache(t)
	cfg := s.job(modelTask("host", "/x", `, "models_wait": "0s"`), nil, map[string]string{"HF_HUB_ETAG_TIMEOUT": "7"})
	handle := s.run(cfg)
	seen := s.seen(t, cfg)
	if !strings.HasPrefix(seen.Env["HF_ENDPOINT"], "http://127.0.0.1:") || seen.Env["HF_HUB_OFFLINE"] != "" || seen.Env["HF_HUB_CACHE"] != "" || seen.Env["HF_HUB_ETAG_TIMEOUT"] != "7" {
		t.Errorf("the environment is %v", seen.Env)
	}
	for _, m := range seen.Mounts {
		if strings.HasPrefix(m, modelsRoot) {
			t.Errorf("a model that is not whole is mounted: %s", m)
		}
	}
	s.relaunch()
	if err := s.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	n.hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	s.event(t, "is on the node")
	if got := n.pins(t); len(got) != 1 || got[0] != ownerOf(cfg.ID) {
		t.Errorf("pinned by %v", got)
	}
}

// A task that cannot reach the endpoint waits for its model.
func TestModelsThatCannotBeReadOtherwiseAreWaitedFor(t *testing.T) {
	n, s, stall := stalledCache(t)
	late := s.job(modelTask("none", "/x", `, "models_wait": "0s", "models_timeout": "100ms"`), nil, nil)
	if _, _, err := s.StartTask(late); err == nil || !strings.Contains(err.Error(), "not all are complete after 100ms (models_timeout)") || !structs.IsRecoverable(err) {
		t.Errorf("a start without its model: %v", err)
	}
	cfg := s.job(modelTask("none", "/x", `, "models_wait": "0s"`), nil, nil)
	started := make(chan error, 1)
	go func() {
		_, _, err := s.StartTask(cfg)
		started <- err
	}()
	s.event(t, "model "+qwen+": ", "of 21.0 MB")
	n.hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DestroyTask(cfg.ID, true) })
	if seen := s.seen(t, cfg); seen.Env["HF_HUB_OFFLINE"] != "1" {
		t.Errorf("the environment is %v", seen.Env)
	}
}

// What a task has mounted is not evicted for another model.
func TestMountedModelsAreNotEvicted(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, `capacity = "30MiB"`)
	t.Cleanup(n.start())
	n.hub.Push("Qwen/Other", "main", map[string]hubtest.File{"model.safetensors": {Body: hubtest.Bytes(2, 20<<20), LFS: true}})
	s := ship(t, n.config())
	cfg := s.job(modelTask("none", "/x", ""), nil, nil)
	s.run(cfg)
	other := s.job(strings.ReplaceAll(modelTask("none", "/x", ""), "Qwen3", "Other"), nil, nil)
	_, _, err := s.StartTask(other)
	if err == nil || !strings.Contains(err.Error(), "no room in the cache") || strings.Contains(err.Error(), "\n") || structs.IsRecoverable(err) {
		t.Fatalf("a model without room: %v", err)
	}
	m, err := n.Fetch(t.Context(), cacheapi.Fetch{Model: qwen})
	if err != nil || m.State != cacheapi.Whole {
		t.Fatalf("the mounted model is %+v, %v", m, err)
	}
	// Once its task has gone it makes room.
	if err := s.DestroyTask(cfg.ID, true); err != nil {
		t.Fatal(err)
	}
	await(t, "no pin", func() bool { return len(n.pins(t)) == 0 })
	again := s.job(strings.ReplaceAll(modelTask("none", "/x", ""), "Qwen3", "Other"), nil, nil)
	s.run(again)
}

func TestWhatTheCacheRefusesIsOneLine(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, "")
	stop := n.start()
	s := ship(t, n.config())
	for model, want := range map[string]string{
		"hf://Qwen/Nothing@main":   "not found",
		"file:///etc/passwd":       "files is not set in the cache's configuration",
		"hf://Qwen/Qwen3@nothing":  "not found",
		"https://127.0.0.1:1/gguf": "refused",
	} {
		cfg := s.job(fmt.Sprintf(`{"image": %q, "models": [%q]}`, probeRef, model), nil, nil)
		_, _, err := s.StartTask(cfg)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", model, err, want)
		}
	}
	stop()
	_, _, err := s.StartTask(s.job(modelTask("none", "/x", ""), nil, nil))
	if err == nil || !strings.Contains(err.Error(), "run jobs/cache.nomad.hcl on this node") || !structs.IsRecoverable(err) {
		t.Errorf("without a cache: %v", err)
	}
}

func TestBadModelsNameKeyValueAndFix(t *testing.T) {
	_, schema := schemas(t)
	set, err := mustSettings(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`"models": ["Qwen/Qwen3"]`:                                                              `want a name such as hf://Qwen/Qwen3-4B@main`,
		`"models": ["hf://a/b@1", "hf://a/b@2"]`:                                                `have the same path in the task, /aliquot/models/hub/a/b`,
		`"models": ["file:///a", "file:///a/b"]`:                                                `contains the other`,
		`"models": ["hf://a/b"], "models_wait": "soon"`:                                         `models_wait is "soon": want a duration`,
		`"models": ["hf://a/b"], "models_timeout": "0s"`:                                        `models_timeout is "0s": want a duration above zero`,
		`"models": ["hf://a/b"], "models_include": ["["]`:                                       `"[" is not a pattern`,
		`"models": ["hf://a/b"], "mount": [{"type": "tmpfs", "target": "/aliquot/models/hub"}]`: `the task mounts something at /aliquot/models/hub`,
		`"models": ["hf://a/b"], "mount": [{"type": "tmpfs", "target": "/aliquot"}]`:            `the task mounts something at /aliquot`,
	} {
		_, err := set.prepare(newJob(t, schema, `{"image": "x:1", `+text+`}`, nil, nil), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// What a task has for an origin goes to no other.
func TestCredentialsGoToTheirOriginAlone(t *testing.T) {
	_, schema := schemas(t)
	set, _ := mustSettings(t, `{}`)
	env := map[string]string{"HF_TOKEN": "secret", "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_SESSION_TOKEN": "ST", "AWS_ENDPOINT_URL": "http://s3.internal"}
	login, keys := cacheapi.Login("u", "p"), cacheapi.S3Keys{Endpoint: "http://s3.internal", ID: "AK", Secret: "SK", Session: "ST"}.Token()
	for _, c := range []struct {
		task string
		want map[string]string // by model
	}{
		{`"image": "ghcr.io/o/i:1", "auth": {"username": "u", "password": "p"}`, map[string]string{
			"hf://a/b": "secret", "https://example.com/c": "", "s3://b/k": keys, "oci://ghcr.io/o/m:v1": login, "oci://quay.io/o/m:v1": "",
		}},
		{`"image": "i:1", "auth": {"username": "u", "password": "p"}`, map[string]string{"oci://docker.io/o/m:v1": login, "oci://ghcr.io/o/m:v1": ""}},
		{`"image": "i:1", "auth": {"username": "u", "password": "p", "server_address": "https://index.docker.io/v1/"}`, map[string]string{"oci://docker.io/o/m:v1": login}},
		{`"image": "ghcr.io:443/o/i:1", "auth": {"username": "u", "password": "p"}`, map[string]string{"oci://ghcr.io/o/m:v1": login, "oci://ghcr.io:5000/o/m:v1": ""}},
		{`"image": "ghcr.io/o/i:1", "auth": {"username": "u", "password": "p", "server_address": "https://ghcr.io"}`, map[string]string{"oci://ghcr.io:443/o/m:v1": login}},
		{`"image": "i:1", "auth": {"username": "u", "password": "p", "server_address": "registry-1.docker.io"}`, map[string]string{"oci://index.docker.io/o/m:v1": login, "oci://docker.io/o/m:v1": login}},
		{`"image": "i:1", "auth": {"username": "u", "password": "p", "server_address": "r.internal:5000"}`, map[string]string{"oci://r.internal:5000/m:v1": login, "oci://docker.io/o/m:v1": ""}},
		{`"image": "ghcr.io/o/i:1"`, map[string]string{"oci://ghcr.io/o/m:v1": ""}},
	} {
		names, _ := json.Marshal(slices.Sorted(maps.Keys(c.want)))
		s, err := set.prepare(newJob(t, schema, `{`+c.task+`, "models": `+string(names)+`}`, nil, env), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range s.models.refs {
			name := strings.Replace(ref.String(), "@main", "", 1)
			if got := s.models.ask(ref, "", 0).Token; got != c.want[strings.Replace(name, "@v1", ":v1", 1)] {
				t.Errorf("with %s, %s is asked for with %q", c.task, ref, got)
			}
		}
	}
}

func TestModelMount(t *testing.T) {
	view := t.TempDir()
	for _, f := range []string{"hub/datasets--a--b/x", "files/model.gguf"} {
		if err := os.MkdirAll(filepath.Join(view, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(view, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][2]string{
		"hf://datasets/a/b":              {"hub/datasets--a--b", "/aliquot/models/hub/datasets--a--b"},
		"https://host:8080/x/model.gguf": {"files/model.gguf", "/aliquot/models/host:8080/x/model.gguf"},
		"file:///srv/model.gguf":         {"files/model.gguf", "/aliquot/models/srv/model.gguf"},
		"file:///srv/models/":            {"files", "/aliquot/models/srv/models"},
	} {
		ref, err := blob.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := modelMount(ref, view)
		if err != nil || m.HostPath != filepath.Join(view, want[0]) || m.TaskPath != want[1] || !m.Readonly {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := modelMount(blob.Ref{Scheme: "hf", Name: "a/b"}, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a view that is gone: %v", err)
	}
}

func TestProgressSpeaksAtQuarters(t *testing.T) {
	var p progress
	var said []string
	m := cacheapi.Model{Model: "hf://a/b@main", State: cacheapi.Fetching, Total: 7_800_000_000, Peers: 4}
	for got := int64(0); got <= m.Total; got += m.Total / 100 {
		m.Bytes, m.Seconds = got, float64(got)/210e6
		if text, _ := p.event([]cacheapi.Model{m}); text != "" {
			said = append(said, text)
		}
	}
	m.Bytes, m.State = m.Total, cacheapi.Whole
	for range 2 {
		if text, _ := p.event([]cacheapi.Model{m}); text != "" {
			said = append(said, text)
		}
	}
	want := []string{
		"model hf://a/b@main: 0 B of 7.8 GB, from 4 peers", "model hf://a/b@main: 1.9 of 7.8 GB, 210 MB/s, from 4 peers", "model hf://a/b@main: 3.9 of 7.8 GB, 210 MB/s, from 4 peers",
		"model hf://a/b@main: 5.8 of 7.8 GB, 210 MB/s, from 4 peers", "model hf://a/b@main is on the node: 7.8 GB, 210 MB/s, from 4 peers",
	}
	if !slices.Equal(said, want) {
		t.Errorf("said %q", said)
	}
}

// A repository of the Hub that is whole is not mounted beside one that is not: a client is
// offline for all of them or for none.
func TestModelsOfTheHubAreMountedTogether(t *testing.T) {
	view := t.TempDir()
	for _, dir := range []string{"hub/models--a--b", "files"} {
		if err := os.MkdirAll(filepath.Join(view, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	refs := []blob.Ref{{Scheme: "hf", Name: "a/b"}, {Scheme: "hf", Name: "a/c"}, {Scheme: "file", Name: "/d"}}
	b := modelFetch{config: modelConfig{refs: refs, ownNetwork: true}}
	s := &start{config: &drivers.TaskConfig{Env: map[string]string{}}}
	found := []cacheapi.Model{{State: cacheapi.Whole, Path: view}, {State: cacheapi.Fetching}, {State: cacheapi.Whole, Path: view}}
	if err := b.addTo(s, found, "http://10.0.0.1:7480"); err != nil {
		t.Fatal(err)
	}
	if len(s.config.Mounts) != 1 || s.config.Mounts[0].TaskPath != "/aliquot/models/d" || s.config.Env["HF_ENDPOINT"] == "" || s.config.Env["HF_HUB_OFFLINE"] != "" {
		t.Errorf("%+v %v", s.config.Mounts, s.config.Env)
	}
	for endpoint, want := range map[string]bool{"http://10.0.0.1:7480": true, "http://127.0.0.1:7480": false, "http://[::1]:7480": false, "": false} {
		if got := b.config.noEndpoint(found, endpoint) == ""; got != want {
			t.Errorf("%s can be read: %v", endpoint, got)
		}
	}
}
