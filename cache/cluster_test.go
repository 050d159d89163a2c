package cache

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/cacheapi"
)

// node is a cache of a test.
type node struct {
	*Daemon
	conf *config.Config
	api  *cacheapi.Client
	log  *logs
}

// logs keeps what a cache writes to its log.
type logs struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{} // closed by the next line
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrote != nil {
		close(l.wrote)
		l.wrote = nil
	}
	return l.text.Write(p)
}

// await waits for a line that holds a text, in what is written from an offset on. It
// returns where the text ends.
func (l *logs) await(t *testing.T, from int, text string) int {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		at := strings.Index(l.text.String()[from:], text)
		if l.wrote == nil {
			l.wrote = make(chan struct{})
		}
		wrote := l.wrote
		l.mu.Unlock()
		if at >= 0 {
			return from + at + len(text)
		}
		select {
		case <-wrote:
		case <-late:
			t.Fatalf("the log has no %q", text)
		}
	}
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// eventually waits for what a cache answers only when it is asked. What it writes to its
// log is awaited there.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	look, late := time.NewTicker(20*time.Millisecond), time.After(30*time.Second)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-late:
			t.Fatalf("no %s", what)
		}
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// settings are those of a node without peers.
func settings(t *testing.T, hub string) *config.Config {
	t.Helper()
	return settingsIn(t.TempDir(), hub)
}

func settingsIn(dir, hub string) *config.Config {
	conf, err := config.Parse([]byte(fmt.Sprintf(`
dir = %q
socket = %q
hf_listen = "127.0.0.1:0"
admin = ""
keep_free = "0"
huggingface { endpoint = %q }
`, filepath.Join(dir, "store"), filepath.Join(dir, "s"), hub)), "test")
	if err != nil {
		panic(err)
	}
	return conf
}

// victimSettings are those of a cache that reads slowly enough to be killed in between.
func victimSettings(dir, hub string) *config.Config {
	conf := settingsIn(dir, hub)
	conf.OriginRate = 40 << 20
	return conf
}

func begin(t *testing.T, conf *config.Config) *node {
	t.Helper()
	n := &node{conf: conf, api: cacheapi.NewClient(conf.Socket), log: &logs{}}
	var err error
	if n.Daemon, err = Start(t.Context(), conf, slog.New(slog.NewTextHandler(n.log, nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		if t.Failed() {
			t.Logf("%s: %s", conf.Dir, n.log)
		}
	})
	return n
}

// nodes starts caches that know each other.
func nodes(t *testing.T, hub string, count int) (all []*node) {
	t.Helper()
	var known []string
	for range count {
		known = append(known, free(t))
	}
	for i := range count {
		conf := settings(t, hub)
		conf.Peer = &config.Peer{Listen: known[i], Advertise: known[i], Known: known, Insecure: true}
		all = append(all, begin(t, conf))
	}
	return all
}

func startHub(t *testing.T) *hubtest.Hub {
	t.Helper()
	hub, stop := hubtest.Start()
	t.Cleanup(stop)
	return hub
}

// get reads a URL of an endpoint with headers in pairs.
func get(t *testing.T, method, at string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, at, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, at, err)
	}
	return res, body
}

// fetched asks for a model and waits for it.
func (n *node) fetched(ctx context.Context, ask cacheapi.Fetch) (cacheapi.Model, error) {
	ask.Wait = 60
	m, err := n.api.Fetch(ctx, ask)
	if err == nil && m.State != cacheapi.Whole {
		text, _ := json.Marshal(m)
		err = fmt.Errorf("the model is not whole: %s", text)
	}
	return m, err
}

func fetchOf(model string) cacheapi.Fetch { return cacheapi.Fetch{Model: model} }

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// npmVersion is that of npm's client of the Hub.
const npmVersion = "2.17.5"

// npmClient installs npm's client of the Hub once, and returns the folder in which it
// can be found. The test is skipped where there is no npm or its registry does not answer.
func npmClient(t *testing.T) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("there is no npm: install Node.js 18 or later with it")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "aliquot", "npm-huggingface-hub-"+npmVersion)
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@huggingface", "hub")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := exec.CommandContext(ctx, npm, "view", "@huggingface/hub@"+npmVersion, "version").Run(); err != nil {
		t.Skip("@huggingface/hub is not installed, and npm's registry does not answer")
	}
	if out, err := exec.CommandContext(ctx, npm, "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "@huggingface/hub@"+npmVersion).CombinedOutput(); err != nil {
		t.Fatalf("npm cannot install @huggingface/hub: %v: %s", err, out)
	}
	return dir
}

// webServer serves the files of a directory.
func webServer(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	return s.URL, s.Close
}
