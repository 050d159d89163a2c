package gateways

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rounds is how often every fault is repeated, and pause is how long a process is stopped or a
// network is cut; make soak-gateways sets both.
var (
	rounds = 1
	pause  = 2500 * time.Millisecond
)

// alone marks a test process that has its own network namespace.
const alone = "ALIQUOT_TEST_ALONE"

// programs are the paths of the programs that all tests run.
var programs struct{ aliquot, consul, missing string }

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv("ALIQUOT_ROUNDS")); err == nil {
		rounds, pause = n, 10*time.Second
	}
	folder, err := os.MkdirTemp("", "aliquot-gateways-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	find(folder)
	status := m.Run()
	os.RemoveAll(folder)
	os.Exit(status)
}

// find builds the gateway's program and finds Consul's.
func find(folder string) {
	root, err := filepath.Abs("../..")
	if err != nil {
		programs.missing = err.Error()
		return
	}
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = root
		var problem bytes.Buffer
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil && programs.missing == "" {
			programs.missing = fmt.Sprintf("%s: %v: %s", name, err, strings.TrimSpace(problem.String()))
		}
		return strings.TrimSpace(string(out))
	}
	programs.consul = run("scripts/tools", "--path", "consul")
	if bin := os.Getenv("ALIQUOT_BIN"); bin != "" {
		programs.aliquot = filepath.Join(bin, "aliquot")
		return
	}
	programs.aliquot = filepath.Join(folder, "aliquot")
	run("go", "build", "-o", programs.aliquot, "./cmd/aliquot")
}

// isolated reports whether the test runs in its own network namespace. If not, it runs the test
// there in a child process before it returns.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(alone) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces: use make e2e")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), alone+"=1", "ALIQUOT_BIN="+filepath.Dir(programs.aliquot))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

// fleet starts gateways that end with the test, in front of replicas with the given numbers of
// slots.
func fleet(t *testing.T, o Options, replicas ...int) (context.Context, *Fleet) {
	t.Helper()
	if programs.missing != "" {
		t.Fatal(programs.missing)
	}
	o.Program, o.Consul, o.Dir = programs.aliquot, programs.consul, t.TempDir()
	if o.TLS == "" {
		o.TLS = `tls = "off"`
	}
	if o.Gateways == 0 {
		o.Gateways = 3
	}
	o.Service += "\nqueue {\n  max      = 100000\n  max_wait = \"5m\"\n}"
	host := "127.0.0.1"
	if os.Getenv(alone) != "" {
		var err error
		if o.Hosts, err = NewHosts(o.Gateways+1, o.Dir); err != nil {
			t.Fatal(err)
		}
		host = o.Hosts.Hub
	}
	for i, slots := range replicas {
		r, err := NewReplica(host, fmt.Sprintf("class-%d", i), slots, 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		o.Replicas = append(o.Replicas, r)
	}
	ctx := t.Context()
	f, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.End)
	t.Cleanup(func() {
		if t.Failed() {
			for _, g := range f.Gateways {
				t.Logf("gateway %d:\n%s", g.Index, g.Log())
			}
		}
	})
	return ctx, f
}

// owner waits until all gateways agree on an owner.
func (f *Fleet) owner(ctx context.Context, t *testing.T) *Gateway {
	t.Helper()
	g, err := f.Settled(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// others returns the running gateways except one.
func (f *Fleet) others(than *Gateway) (out []*Gateway) {
	for _, g := range f.Live() {
		if g != than {
			out = append(out, g)
		}
	}
	return out
}

// reset restarts the replicas' counts.
func (f *Fleet) reset() {
	for _, r := range f.options.Replicas {
		r.Reset()
	}
}

// full waits until all slots of all replicas were in use at once since reset, so that none is lost.
func (f *Fleet) full(ctx context.Context, t *testing.T) {
	t.Helper()
	err := Await(ctx, "all slots in use", func() string {
		for _, r := range f.options.Replicas {
			if n := r.MaxActive(); n < r.Slots {
				return fmt.Sprintf("replica %s served %d of %d at once", r.Address, n, r.Slots)
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// goOn waits until each of the gateways has served so many more requests.
func (l *Load) goOn(ctx context.Context, t *testing.T, requests int64, at []*Gateway) {
	t.Helper()
	before := l.Served()
	err := Await(ctx, "requests are served", func() string {
		now := l.Served()
		for _, g := range at {
			if now[g.Index] < before[g.Index]+requests {
				return fmt.Sprintf("gateway %d served %d more", g.Index, now[g.Index]-before[g.Index])
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// verdict ends the load and checks that nothing failed and no replica got more requests than it has
// slots.
func (f *Fleet) verdict(t *testing.T, l *Load) {
	t.Helper()
	failed, lost := l.End()
	for _, text := range failed[:min(len(failed), 10)] {
		t.Error(text)
	}
	if len(failed) > 10 {
		t.Errorf("%d requests failed", len(failed))
	}
	for _, r := range f.options.Replicas {
		wrong := r.Exceeded()
		for _, text := range wrong[:min(len(wrong), 10)] {
			t.Error(text)
		}
	}
	t.Logf("%v requests were served by gateway, %d were lost with the gateway that carried them", l.Served(), lost)
}

// gap returns the longest time after since in which no request started, and when the first request
// started that does not belong to a lost gateway.
func (f *Fleet) gap(since time.Time) (longest, first time.Duration) {
	var starts []time.Time
	for _, r := range f.options.Replicas {
		for _, s := range r.Starts() {
			if s.At.After(since) {
				starts = append(starts, s.At)
			}
		}
	}
	return gapOf(since, starts)
}
