package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/weigh"
)

// routers is a Consul server and router processes on it.
type routers struct {
	t       *testing.T
	consul  *consultest.Server
	program string
	config  string
	running map[int]*exec.Cmd // by process ID
	logs    string
}

const routerNode = "gpu-node"

// startRouters starts Consul and n routers whose sessions expire within seconds.
func startRouters(t *testing.T, n int) *routers {
	t.Helper()
	dir := t.TempDir()
	server, err := consultest.Start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r := &routers{t: t, consul: server, config: filepath.Join(dir, "router.hcl"), logs: filepath.Join(dir, "router.log"), running: map[int]*exec.Cmd{}}
	if bin := os.Getenv("ALIQUOT_BIN"); bin != "" {
		r.program = filepath.Join(bin, "aliquot")
	} else {
		r.program = filepath.Join(dir, "aliquot")
		if out, err := exec.Command("go", "build", "-o", r.program, "aliquot.example/cmd/aliquot").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	text := fmt.Sprintf(`
consul { address = %q }
leader {
  ttl        = "1s"
  lock_delay = "100ms"
}
audit_interval = "1s"
`, server.Address)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range n {
		r.add()
	}
	t.Cleanup(func() {
		for pid := range r.running {
			r.end(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			text, _ := os.ReadFile(r.logs)
			t.Logf("routers:\n%s", text)
		}
	})
	return r
}

func (r *routers) add() {
	r.t.Helper()
	log, err := os.OpenFile(r.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(r.program, "router", "-config", r.config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.running[cmd.Process.Pid] = cmd
}

func (r *routers) end(pid int, signal syscall.Signal) {
	cmd := r.running[pid]
	delete(r.running, pid)
	_ = cmd.Process.Signal(signal)
	_ = cmd.Wait()
}

// leader returns the process ID of the router that holds the lock, or 0.
func (r *routers) leader() int {
	pair, _, err := r.consul.Client.KV().Get("aliquot/router/leader", nil)
	if err != nil || pair == nil || pair.Session == "" {
		return 0
	}
	for pid := range r.running {
		if strings.HasSuffix(string(pair.Value), fmt.Sprintf("-%d", pid)) {
			return pid
		}
	}
	return 0
}

func (r *routers) awaitLeader() (pid int) {
	r.t.Helper()
	awaitHere(r.t, 15*time.Second, func() string {
		if pid = r.leader(); pid == 0 {
			return "no router leads"
		}
		return ""
	})
	return pid
}

func (r *routers) instances(service string, counts map[string]int) {
	r.t.Helper()
	for class, n := range counts {
		for i := range n {
			id := fmt.Sprintf("%s-%s-%d", service, class, i)
			err := r.consul.Instance(routerNode, service, id, api.HealthPassing, map[string]string{"gpu_class": class, "aliquot_route": "true"})
			if err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func (r *routers) health(service, class string, i int, status string) {
	r.t.Helper()
	if err := r.consul.Health(routerNode, fmt.Sprintf("%s-%s-%d", service, class, i), status); err != nil {
		r.t.Fatal(err)
	}
}

func (r *routers) awaitChain(service string, want map[string]int, within time.Duration) time.Duration {
	r.t.Helper()
	start := time.Now()
	awaitHere(r.t, within, func() string {
		if got := r.consul.Chain(service); !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("chain is %v, want %v", got, want)
		}
		return ""
	})
	return time.Since(start)
}

func awaitHere(t *testing.T, within time.Duration, missing func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		why := missing()
		if why == "" {
			return
		}
		if time.Since(start) > within {
			t.Fatalf("after %s: %s", within, why)
		}
	}
}

// computed returns the shares that the given counts of healthy instances should have.
func computed(t *testing.T, counts map[string]int) map[string]int {
	t.Helper()
	var all []weigh.Instance
	for class := range counts {
		all = append(all, weigh.Instance{Group: weigh.Group{Class: class}})
	}
	return sharesBy(t, weigh.Weights(all, nil, nil, nil, weigh.DefaultTrust(), time.Now()), counts)
}

func sharesBy(t *testing.T, weights map[string]weigh.Weight, counts map[string]int) map[string]int {
	t.Helper()
	var loads []weigh.Load
	for class, n := range counts {
		loads = append(loads, weigh.Load{Group: class, Count: n, Rate: weights[class].Value})
	}
	shares, err := weigh.Shares(loads)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range shares {
		out[s.Group] = s.Hundredths
	}
	return out
}

func TestRouterChainEqualsComputedShares(t *testing.T) {
	r := startRouters(t, 1)
	counts := map[string]int{"h100": 2, "l4": 3, "mi300x": 1}
	r.instances("chat", counts)
	r.awaitChain("chat", computed(t, counts), 20*time.Second)
	t.Logf("2 x h100, 3 x l4, 1 x mi300x: %v hundredths of a percent", r.consul.Chain("chat"))

	r.health("chat", "h100", 0, api.HealthCritical)
	t.Logf("one h100 failed: shares moved after %s", r.awaitChain("chat", computed(t, map[string]int{"h100": 1, "l4": 3, "mi300x": 1}), 2*time.Second))
	r.health("chat", "mi300x", 0, api.HealthCritical)
	t.Logf("the mi300x failed: zeroed after %s", r.awaitChain("chat", computed(t, map[string]int{"h100": 1, "l4": 3, "mi300x": 0}), 2*time.Second))
}

// history collects every version of a splitter.
type history struct {
	mu   sync.Mutex
	seen []map[string]int
}

func (h *history) follow(t *testing.T, server *consultest.Server, service string) {
	index, last := uint64(0), uint64(0)
	for t.Context().Err() == nil {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}).WithContext(t.Context())
		e, meta, err := server.Client.ConfigEntries().Get(api.ServiceSplitter, service, q)
		if err != nil {
			index = 0
			continue
		}
		if index = meta.LastIndex; e.GetModifyIndex() == last {
			continue
		}
		last = e.GetModifyIndex()
		shares := map[string]int{}
		for _, s := range e.(*api.ServiceSplitterConfigEntry).Splits {
			shares[s.ServiceSubset] += int(s.Weight*100 + 0.5)
		}
		h.mu.Lock()
		h.seen = append(h.seen, shares)
		h.mu.Unlock()
	}
}

// With two routers, the leader is killed ten times while health changes before, during and after
// its death. Every version of the splitter must match some state of the instances, and each round
// must end with the right one.
func TestRouterLeaderIsKilled(t *testing.T) {
	r := startRouters(t, 2)
	full := map[string]int{"h100": 2, "l4": 2, "mi300x": 1}
	r.instances("chat", full)
	r.awaitChain("chat", computed(t, full), 20*time.Second)
	h := &history{}
	go h.follow(t, r.consul, "chat")

	legal := []map[string]int{}
	for h100 := 0; h100 <= 2; h100++ {
		for l4 := 0; l4 <= 2; l4++ {
			for mi := 0; mi <= 1; mi++ {
				if h100+l4+mi > 0 {
					legal = append(legal, computed(t, map[string]int{"h100": h100, "l4": l4, "mi300x": mi}))
				}
			}
		}
	}
	for round := range 10 {
		leader := r.awaitLeader()
		status, counts := api.HealthCritical, map[string]int{"h100": 1, "l4": 1, "mi300x": 0}
		if round%2 == 1 {
			status, counts = api.HealthPassing, full
		}
		r.health("chat", "h100", 0, status)
		r.end(leader, syscall.SIGKILL)
		r.health("chat", "l4", 0, status)
		r.add()
		r.health("chat", "mi300x", 0, status)
		took := r.awaitChain("chat", computed(t, counts), 15*time.Second)
		t.Logf("round %d: router %d killed, shares right after %s", round+1, leader, took.Round(time.Millisecond))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, seen := range h.seen {
		ok := false
		for _, want := range legal {
			ok = ok || reflect.DeepEqual(seen, want)
		}
		if !ok {
			t.Errorf("a splitter with %v was written, which no state of the instances calls for", seen)
		}
	}
	t.Logf("%d versions of the splitter, all of them legal", len(h.seen))
}

// A leader that is suspended for longer than its session lives, and then continues, must not
// overwrite what its successor wrote.
func TestRouterLeaderFreezes(t *testing.T) {
	r := startRouters(t, 2)
	full := map[string]int{"h100": 2, "l4": 2}
	r.instances("chat", full)
	r.awaitChain("chat", computed(t, full), 20*time.Second)
	for round := range 3 {
		leader := r.awaitLeader()
		if err := syscall.Kill(leader, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		status, counts := api.HealthCritical, map[string]int{"h100": 1, "l4": 2}
		if round%2 == 1 {
			status, counts = api.HealthPassing, full
		}
		r.health("chat", "h100", 0, status)
		r.awaitChain("chat", computed(t, counts), 15*time.Second)
		before := splitterIndex(t, r)
		if err := syscall.Kill(leader, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		// It has time for a wrong write, which must not happen.
		deadline := time.Now().Add(2500 * time.Millisecond)
		awaitHere(t, 5*time.Second, func() string {
			if splitterIndex(t, r) != before {
				t.Fatalf("round %d: the splitter was written again: %v", round+1, r.consul.Chain("chat"))
			}
			if time.Now().Before(deadline) {
				return "still looking"
			}
			return ""
		})
	}
}

func splitterIndex(t *testing.T, r *routers) uint64 {
	t.Helper()
	e, _, err := r.consul.Client.ConfigEntries().Get(api.ServiceSplitter, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.GetModifyIndex()
}

// With the jobs of the router and of a model server, as users run them, the granted hardware
// determines Consul's shares.
func TestRouterJob(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	vars := cluster.Vars{
		"driver": "raw_exec", "consul": strings.TrimPrefix(c.ConsulAddress, "http://"), "count": 1,
		"services": `service "app" {
  rule "fp8" {
    header "x-precision" {
      exact = "fp8"
    }
    precision = "fp8"
    strict    = true
  }
}`,
	}
	run(ctx, t, c, "jobs/router.nomad.hcl", vars, 1)
	app := appVars(c, 3)
	app["slices"] = 8 // two fit on one GPU, so both classes get some
	run(ctx, t, c, httpJob, app, 3)
	server := &consultest.Server{Client: c.Consul}
	missing := func() string {
		found, _, err := c.Consul.Health().Service("app", "", true, nil)
		if err != nil || len(found) != 3 {
			return fmt.Sprintf("%d passing instances, %v", len(found), err)
		}
		want := sharesOf(t, found)
		if got := server.Chain("app"); !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("chain is %v, want %v", got, want)
		}
		return ""
	}
	if err := cluster.AwaitWithin(ctx, 60*time.Second, "shares of the granted hardware", missing); err != nil {
		t.Fatal(err)
	}
	if got := server.Chain("app"); len(got) != 2 {
		t.Errorf("shares of one class only: %v", got)
	}
	t.Logf("shares of what was granted: %v", server.Chain("app"))
}

// sharesOf computes the shares of instances from their meta.
func sharesOf(t *testing.T, found []*api.ServiceEntry) map[string]int {
	t.Helper()
	var instances []weigh.Instance
	counts := map[string]int{}
	for _, e := range found {
		in, err := weigh.ParseInstance(e.Service.ID, e.Service.Meta, true)
		if err != nil {
			t.Fatal(err)
		}
		if in.Weight == 0 || in.Group.Slices == 0 {
			t.Errorf("the grant did not reach the service's meta: %v", e.Service.Meta)
		}
		instances = append(instances, in)
		counts[in.Group.Name()]++
	}
	return sharesBy(t, weigh.Weights(instances, nil, nil, nil, weigh.DefaultTrust(), time.Now()), counts)
}
