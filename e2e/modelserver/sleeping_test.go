package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/api"
)

// sleeper is a server with vLLM's sleep mode whose sleep and wake requests a test can block.
type sleeper struct {
	*httptest.Server
	server *server
	class  string
	wakes  atomic.Int64
	fails  atomic.Bool   // /wake_up returns 500
	halves atomic.Bool   // the next one does, but the engine wakes
	gate   chan struct{} // nil, or what /wake_up waits for
}

func newSleeper(t *testing.T, class string, sleeps bool, gate chan struct{}) *sleeper {
	t.Helper()
	o := usual()
	o.model, o.engine, o.slots, o.speedup, o.sleeps, o.wakes = "m", class, vllmSeqs, 50, sleeps, 0
	s := &sleeper{server: newServer(o), class: class, gate: gate}
	ctx, cancel := context.WithCancel(context.Background())
	s.server.load(ctx, &hardware.Hardware{Variant: "cpu"})
	routes := s.server.routes()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wake_up" {
			s.wakes.Add(1)
			if s.gate != nil {
				<-s.gate
			}
			if s.fails.Load() {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			if s.halves.CompareAndSwap(true, false) {
				routes.ServeHTTP(httptest.NewRecorder(), r)
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		routes.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Cleanup(cancel)
	return s
}

// inFrontOf starts a gateway whose replicas can sleep.
func inFrontOf(t *testing.T, replicas ...*sleeper) *sleepy {
	t.Helper()
	text := "service \"m\" {\npolicy = \"tokens\"\nsleep {}\n"
	for _, r := range replicas {
		text += fmt.Sprintf("replica {\n address = %q\n class = %q\n}\n", strings.TrimPrefix(r.URL, "http://"), r.class)
	}
	public, admin := startGateway(t, text+"}\n")
	return &sleepy{t, public, admin, replicas}
}

type sleepy struct {
	t             *testing.T
	public, admin string
	replicas      []*sleeper
}

// states returns the replicas' states by class.
func (g *sleepy) states() (queued int, sleep map[string]string) {
	g.t.Helper()
	res, err := http.Get(g.admin + "/v1/services")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	var services []api.Service
	if err := json.NewDecoder(res.Body).Decode(&services); err != nil {
		g.t.Fatal(err)
	}
	sleep = map[string]string{}
	for _, r := range services[0].Replicas {
		sleep[r.Class] = r.Sleep
	}
	return services[0].Queued, sleep
}

// enough sets how many replicas of a class, or of all for "", must stay awake.
func (g *sleepy) enough(class string, n int) {
	g.t.Helper()
	r, _ := http.NewRequest(http.MethodPut, g.admin+"/v1/services/m/awake", strings.NewReader(fmt.Sprintf(`{"class":%q,"replicas":%d}`, class, n)))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		g.t.Fatal(res.Status)
	}
}

func (g *sleepy) await(what string, holds func(queued int, sleep map[string]string) bool) {
	g.t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	late := time.After(time.Minute)
	for {
		queued, sleep := g.states()
		if holds(queued, sleep) {
			return
		}
		select {
		case <-look.C:
		case <-late:
			g.t.Fatalf("%s: not within a minute: %d wait, %v", what, queued, sleep)
		}
	}
}

// ask sends a request and returns the status of its answer.
func (g *sleepy) ask() string {
	res, err := http.Post(g.public+"/v1/completions", "application/json", strings.NewReader(`{"model":"m","prompt":"hello","max_tokens":3}`))
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return fmt.Sprint(res.StatusCode, " ", strings.Count(string(text), `"text"`))
}

func (g *sleepy) alive() {
	g.t.Helper()
	for _, r := range g.replicas {
		if r.server.sleepMode.dead.Load() {
			g.t.Errorf("%s was sent what kills it", r.class)
		}
	}
}

func all(state string, classes ...string) func(int, map[string]string) bool {
	return func(_ int, sleep map[string]string) bool {
		for _, c := range classes {
			if got, known := sleep[c]; !known || got != state {
				return false
			}
		}
		return true
	}
}

// Surplus replicas sleep. A request that finds all replicas asleep is held while the fastest wakes,
// and only that one is woken.
func TestAReplicaIsWokenForARequest(t *testing.T) {
	gate := make(chan struct{})
	fast, slow := newSleeper(t, "h100", true, gate), newSleeper(t, "a100", true, nil)
	g := inFrontOf(t, slow, fast)
	g.await("both are awake", all("", "h100", "a100"))
	if got := g.ask(); got != "200 1" {
		t.Fatal(got)
	}
	g.enough("a100", 0)
	g.await("one sleeps", func(_ int, s map[string]string) bool { return s["a100"] == "asleep" && s["h100"] == "" })
	if got := g.ask(); got != "200 1" || slow.wakes.Load() != 0 {
		t.Fatalf("%s, and the one that sleeps was woken %d times", got, slow.wakes.Load())
	}
	g.enough("", 0)
	g.await("both sleep", all("asleep", "h100", "a100"))
	answers := make(chan string, 3)
	for range 3 {
		go func() { answers <- g.ask() }()
	}
	g.await("they are held", func(queued int, s map[string]string) bool {
		return queued == 3 && s["h100"] == "waking" && s["a100"] == "asleep"
	})
	close(gate)
	for range 3 {
		if got := <-answers; got != "200 1" {
			t.Error(got)
		}
	}
	if n, m := fast.wakes.Load(), slow.wakes.Load(); n != 1 || m != 0 {
		t.Errorf("woken %d and %d times, want 1 and 0", n, m)
	}
	g.await("it is awake", func(queued int, s map[string]string) bool {
		return queued == 0 && s["h100"] == "" && s["a100"] == "asleep"
	})
	g.alive()
	for _, want := range []string{`aliquot_gateway_sleep_total{action="wake",result="ok",service="m"} 1`, `aliquot_gateway_sleep_total{action="sleep",result="ok",service="m"} 2`, `aliquot_gateway_replicas{class="a100",service="m",state="asleep"} 1`} {
		res, err := http.Get(g.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(text), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// If a replica fails to wake or died while asleep, another one is woken.
func TestAnotherReplicaIsWoken(t *testing.T) {
	for name, harm := range map[string]func(*sleeper){
		"fails": func(s *sleeper) { s.fails.Store(true) },
		"died":  func(s *sleeper) { s.Close() },
		"dead":  func(s *sleeper) { s.server.sleepMode.dead.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			fast, slow := newSleeper(t, "h100", true, nil), newSleeper(t, "a100", true, nil)
			fast.server.sleepMode.sleeping.Store(true)
			slow.server.sleepMode.sleeping.Store(true)
			g := inFrontOf(t, fast, slow)
			g.await("both sleep, as they did before the gateway came", all("asleep", "h100", "a100"))
			harm(fast)
			if got := g.ask(); got != "200 1" || slow.wakes.Load() != 1 {
				t.Errorf("%s; the other one was woken %d times", got, slow.wakes.Load())
			}
			g.await("it is left alone", func(_ int, s map[string]string) bool { return s["h100"] == "away" && s["a100"] == "" })
			if slow.server.sleepMode.dead.Load() {
				t.Error("the other one was sent what kills it")
			}
		})
	}
}

// An engine that others also use is not put to sleep, and one without sleep mode is used as before.
func TestWhoDoesNotSleep(t *testing.T) {
	used, plain := newSleeper(t, "h100", true, nil), newSleeper(t, "a100", false, nil)
	g := inFrontOf(t, used, plain)
	g.await("both are awake", all("", "h100", "a100"))
	ctx, leave := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, used.URL+"/v1/completions", strings.NewReader(`{"model":"m","prompt":"hello","max_tokens":90000,"stream":true}`))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	g.enough("", 0)
	g.await("it was tried", func(int, map[string]string) bool {
		res, err := http.Get(g.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return strings.Contains(string(text), `aliquot_gateway_sleep_total{action="sleep",result="busy",service="m"} 1`)
	})
	g.await("both are awake", all("", "h100", "a100"))
	leave()
	if got := g.ask(); got != "200 1" {
		t.Error(got)
	}
	g.alive()
}

// An engine whose wake-up did not finish reports that it is awake. The gateway completes the
// wake-up before it sends a request, because the weights may be missing.
func TestAHalfWokenReplicaIsWokenAgain(t *testing.T) {
	only := newSleeper(t, "h100", true, nil)
	only.server.sleepMode.sleeping.Store(true)
	only.halves.Store(true)
	g := inFrontOf(t, only)
	g.await("it sleeps", all("asleep", "h100"))
	if got := g.ask(); got != "200 1" || only.wakes.Load() != 2 {
		t.Errorf("%s; it was woken %d times, want 2", got, only.wakes.Load())
	}
	g.alive()
}
