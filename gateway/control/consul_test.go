package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/ports"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/control"
	"aliquot.example/gateway/discovery"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
)

// agent is a real Consul that the test can stop and start again.
type agent struct {
	path, address string
	args          []string
	cmd           *exec.Cmd
	client        *consul.Client
}

func startConsul(t *testing.T) *agent {
	t.Helper()
	path, err := exec.LookPath("consul")
	if err != nil {
		cache, _ := os.UserCacheDir()
		found, _ := filepath.Glob(filepath.Join(cache, "aliquot/tools/consul-*/consul"))
		if len(found) == 0 {
			t.Skip("no consul on PATH nor built: run make tools")
		}
		path = found[len(found)-1]
	}
	own, err := ports.Free(5)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{path: path, address: fmt.Sprintf("127.0.0.1:%d", own[0])}
	a.args = []string{"agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-log-level", "error", "-node", "test",
		"-http-port", fmt.Sprint(own[0]), "-server-port", fmt.Sprint(own[1]), "-serf-lan-port", fmt.Sprint(own[2]),
		"-serf-wan-port", "-1", "-dns-port", "-1", "-grpc-port", fmt.Sprint(own[3]), "-grpc-tls-port", "-1"}
	if a.client, err = control.NewConsul(&config.Consul{Address: a.address}); err != nil {
		t.Fatal(err)
	}
	a.start(t)
	t.Cleanup(a.kill)
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	a.cmd = exec.Command(a.path, a.args...)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 60*time.Second, "Consul leads", func() bool {
		leader, err := a.client.Status().Leader()
		return err == nil && leader != ""
	})
}

func (a *agent) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func await(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func TestConsul(t *testing.T) {
	a := startConsul(t)
	t.Run("rates", func(t *testing.T) { rates(t, a) })
	t.Run("curves", func(t *testing.T) { curves(t, a) })
	t.Run("registration", func(t *testing.T) { registration(t, a) })
	t.Run("discovery", func(t *testing.T) { discover(t, a) })
}

// An agent that accepts and never answers keeps no caller beyond its context.
func TestAnAgentThatHangs(t *testing.T) {
	asked, hold := make(chan string, 1), make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		<-hold
	}))
	defer hung.Close()
	defer close(hold)
	for address, path := range map[string]string{"0.0.0.0:80": "/v1/agent/self", "10.0.0.1:80": "/v1/agent/service/gw"} {
		client, err := control.NewConsul(&config.Consul{Address: strings.TrimPrefix(hung.URL, "http://")})
		if err != nil {
			t.Fatal(err)
		}
		r := control.Registrar{Client: client, Config: &config.Consul{Service: "aliquot-gateway"}, Gateway: "gw"}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Register(ctx, address, "10.0.0.1:81") }()
		if got := <-asked; got != path {
			t.Errorf("%s was asked for, want %s", got, path)
		}
		cancel()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it was not registered, and no error says so")
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: Register outlives its context", path)
		}
	}
}

// What is published of an engine that batches says as much as the queue itself knows of
// how many requests a replica serves at once.
func curves(t *testing.T, a *agent) {
	const tpot = 40 * time.Millisecond
	now := time.Now()
	q := dispatch.New(dispatch.Policy{Mode: dispatch.Tokens, SLO: dispatch.SLO{TPOT: tpot}})
	q.Put(dispatch.Replica{ID: "r", Class: "a100", Slices: 6, Total: 20, Weight: 0.1, KV: 200_000})
	for range 40 {
		ticket := &dispatch.Ticket{Request: dispatch.Request{Prompt: 2000, Output: 100, Expire: now.Add(time.Hour)}}
		q.Submit(ticket, now)
		if q.Next(now) != ticket {
			t.Fatal("an idle replica gets nothing")
		}
		for token := range 100 {
			now = now.Add(30 * time.Millisecond)
			q.Progress(ticket, token+1, now)
		}
		q.Finish(ticket, dispatch.Served, 0, now)
	}
	store := control.Rates{Client: a.client, Config: &config.Consul{Prefix: "aliquot/rates"}, Gateway: "one"}
	if err := store.Save(t.Context(), "llm", q.Rates(), time.Now()); err != nil {
		t.Fatal(err)
	}
	pair, _, err := a.client.KV().Get("aliquot/rates/llm/one", nil)
	if err != nil || pair == nil {
		t.Fatal(pair, err)
	}
	doc, errs := learned.ParseRates(pair.Value)
	class := doc.Classes["a100"]
	c, known := class.Tokens["6of20"]
	if len(errs) > 0 || !known || c.Prompt != 2000 || c.KV != 200_000 || c.Samples < 20 {
		t.Fatalf("published: %s, %v", pair.Value, errs)
	}
	seeds, err := store.Load(t.Context(), "llm")
	if got := seeds["a100"].Curves; err != nil || len(got) != 1 || got[0] != q.Rates()["a100"].Curves[0] {
		t.Errorf("read back: %+v, %v", got, err)
	}
	n, rate := c.MaxConcurrency(learned.Objective{TPOT: tpot.Seconds()})
	if n < 1 || math.Abs(n-class.Slots) > 1 || math.Abs(rate/class.Replica-1) > 0.05 {
		t.Errorf("the curve says %v at once and %v a second, the queue %v and %v", n, rate, class.Slots, class.Replica)
	}
}

func rates(t *testing.T, a *agent) {
	conf := &config.Consul{Prefix: "aliquot/rates"}
	one := control.Rates{Client: a.client, Config: conf, Gateway: "one"}
	two := control.Rates{Client: a.client, Config: conf, Gateway: "two"}
	now := time.Now()
	for _, err := range []error{
		one.Save(t.Context(), "m", map[string]dispatch.Rate{"h100": {Rate: 2, Slots: 4, Samples: 30}, "t4": {Rate: 1, Slots: 1, Samples: 5}}, now),
		two.Save(t.Context(), "m", map[string]dispatch.Rate{"h100": {Rate: 5, Slots: 4, Samples: 10}}, now),
		one.Save(t.Context(), "other", map[string]dispatch.Rate{"h100": {Rate: 9, Slots: 1, Samples: 1}}, now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pair, _, err := a.client.KV().Get("aliquot/rates/m/one", nil)
	if err != nil || pair == nil {
		t.Fatal(pair, err)
	}
	var doc map[string]any
	if err := json.Unmarshal(pair.Value, &doc); err != nil {
		t.Fatal(err)
	}
	h100 := doc["classes"].(map[string]any)["h100"]
	if want := map[string]any{"rate": 2.0, "slots": 4.0, "n": 30.0, "replica_rate": 8.0}; fmt.Sprint(h100) != fmt.Sprint(want) || doc["version"] != 1.0 {
		t.Errorf("the key holds %s", pair.Value)
	}
	if _, err := time.Parse(time.RFC3339, doc["updated"].(string)); err != nil {
		t.Error(err)
	}
	got, err := one.Load(t.Context(), "m")
	if err != nil || got["h100"].Rate != (2*30+5*10)/40.0 || got["t4"].Rate != 1 || len(got) != 2 {
		t.Errorf("loaded %v, %v", got, err)
	}
	if _, err := a.client.KV().Put(&consul.KVPair{Key: "aliquot/rates/m/broken", Value: []byte("{")}, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := one.Load(t.Context(), "m"); err != nil || len(again) != 2 {
		t.Errorf("beside a broken key: %v, %v", again, err)
	}
	curve := learned.Curve{Prefill: 1e-4, A: 0.02, Prompt: 500, Output: 100}
	before, err := one.Profiles(t.Context())
	for _, class := range []string{"h100", "l4"} { // of which one has served
		p := learned.Profile{Measured: now, Class: class, Slices: "10of20", Answers: 500, Curve: &curve}
		if _, err := profilekv.Save(t.Context(), a.client, "m", p); err != nil {
			t.Fatal(err)
		}
	}
	after, err2 := one.Profiles(t.Context())
	if errors.Join(err, err2) != nil || before["m"] == after["m"] || after["other"] != 0 {
		t.Errorf("profiles were written at %v and %v, %v", before, after, errors.Join(err, err2))
	}
	if got, err := one.Load(t.Context(), "m"); err != nil || got["h100"].Rate != 2.75 || len(got["h100"].Curves) != 1 || got["h100"].Curves[0].A != 0.02 || !(got["l4"].Rate > 0) || len(got["l4"].Curves) != 1 {
		t.Errorf("with profiles: %+v, %v", got, err)
	}
	if _, err := a.client.KV().DeleteTree(learned.ProfilesPrefix+"/", nil); err != nil {
		t.Fatal(err)
	}
	if err := two.Save(t.Context(), "m", map[string]dispatch.Rate{"h100": {Rate: 5, Slots: 4, Samples: 10}}, now.Add(-8*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := one.Load(t.Context(), "m"); err != nil || got["h100"].Rate != 2 {
		t.Errorf("beside one that is gone for long: %v, %v", got, err)
	}
	if keys, _, err := a.client.KV().Keys("aliquot/rates/m/", "", nil); err != nil || fmt.Sprint(keys) != "[aliquot/rates/m/broken aliquot/rates/m/one]" {
		t.Errorf("keys left: %v, %v", keys, err)
	}
}

func registration(t *testing.T, a *agent) {
	ready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer ready.Close()
	admin := strings.TrimPrefix(ready.URL, "http://")
	_, port, _ := net.SplitHostPort(admin)
	r := control.Registrar{Client: a.client, Config: &config.Consul{Service: "aliquot-gateway"}, Gateway: "gw-1"}
	if err := r.Register(t.Context(), "0.0.0.0:8080", "[::]:"+port); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "the gateway passes", func() bool {
		found, _, err := a.client.Health().Service("aliquot-gateway", "", true, nil)
		return err == nil && len(found) == 1 && found[0].Service.Port == 8080 && found[0].Service.Address == "127.0.0.1" && found[0].Service.Meta["admin"] == "127.0.0.1:"+port
	})
	// Once more changes nothing; an agent that has lost it gets it again.
	before, _, err := a.client.Agent().Service("gw-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range []bool{false, true} {
		if lost {
			if err := a.client.Agent().ServiceDeregister("gw-1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Register(t.Context(), "0.0.0.0:8080", "[::]:"+port); err != nil {
			t.Fatal(err)
		}
		if now, _, err := a.client.Agent().Service("gw-1", nil); err != nil || now.ContentHash != before.ContentHash {
			t.Errorf("registered again, lost before: %t: %+v, %v", lost, now, err)
		}
	}
	if err := r.Deregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, _, err := a.client.Health().Service("aliquot-gateway", "", false, nil); err != nil || len(found) != 0 {
		t.Errorf("after deregistration %d instances, %v", len(found), err)
	}
}

// seen is the replicas that a source reported last.
type seen struct {
	mu       sync.Mutex
	replicas map[string]line.Replica
	changes  int
}

func (s *seen) set(all []line.Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = map[string]line.Replica{}
	for _, r := range all {
		s.replicas[r.Address] = r
	}
	s.changes++
}

func (s *seen) get(address string) (line.Replica, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replicas[address], len(s.replicas)
}

func discover(t *testing.T, a *agent) {
	var s seen
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	source := discovery.Consul{Health: a.client.Health(), Source: config.ConsulSource{Service: "m"}, Log: slog.New(slog.DiscardHandler)}
	done := make(chan struct{})
	go func() {
		source.Watch(ctx, s.set)
		close(done)
	}()
	register := func(id string, port int, meta map[string]string, status string) {
		t.Helper()
		err := a.client.Agent().ServiceRegister(&consul.AgentServiceRegistration{
			ID: id, Name: "m", Address: "10.0.0.1", Port: port, Meta: meta,
			Check: &consul.AgentServiceCheck{CheckID: "c-" + id, TTL: "1h", Status: status},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	register("a", 1, map[string]string{"gpu_class": "h100", "aliquot_slices": "5", "aliquot_weight": "0.25", "concurrency": "4"}, "passing")
	register("b", 2, map[string]string{"gpu_class": "t4", "concurrency": "none"}, "passing")
	register("c", 3, nil, "critical")
	await(t, 10*time.Second, "two replicas", func() bool { _, n := s.get(""); return n == 2 })
	ra, _ := s.get("10.0.0.1:1")
	if ra.Class != "h100" || ra.Slices != 5 || ra.Slots != 4 || ra.Weight != 0.25/4 {
		t.Errorf("a is %+v", ra)
	}
	if rb, _ := s.get("10.0.0.1:2"); rb.Class != "t4" || rb.Slots != 1 || rb.Weight != 0.06 {
		t.Errorf("b is %+v, want the weight of the table and one slot", rb)
	}
	began := time.Now()
	if err := a.client.Agent().UpdateTTL("c-c", "", "passing"); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "a replica that became healthy", func() bool { _, n := s.get(""); return n == 3 })
	t.Logf("a change is known after %v", time.Since(began))
	if err := a.client.Agent().ServiceDeregister("a"); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "a replica that left", func() bool { _, n := s.get(""); return n == 2 })
	s.mu.Lock()
	changes := s.changes
	s.mu.Unlock()
	a.kill()
	await(t, 10*time.Second, "Consul is gone", func() bool { _, err := a.client.Status().Leader(); return err != nil })
	if _, n := s.get(""); n != 2 {
		t.Errorf("without Consul %d replicas are known, want the last two", n)
	}
	a.start(t)
	register("d", 4, nil, "passing")
	await(t, 30*time.Second, "what the new Consul knows", func() bool { r, n := s.get("10.0.0.1:4"); return n == 1 && r.Address != "" })
	s.mu.Lock()
	if s.changes > changes+5 {
		t.Errorf("%d reports for few changes", s.changes-changes)
	}
	s.mu.Unlock()
	cancel()
	<-done
}
