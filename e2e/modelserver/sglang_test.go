package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"aliquot.example/e2e/modelserver/hardware"
)

// newSGLang returns a server with SGLang's memory saver. The first reload of its weights fails
// while stumbles is set.
func newSGLang(t *testing.T, class string, backup bool) (s *sleeper, stumbles *atomic.Bool) {
	t.Helper()
	o := usual()
	o.model, o.engine, o.slots, o.speedup, o.saver, o.backup = "m", class, vllmSeqs, 50, true, backup
	s = &sleeper{server: newServer(o), class: class}
	stumbles = &atomic.Bool{}
	ctx, cancel := context.WithCancel(context.Background())
	s.server.load(ctx, &hardware.Hardware{Variant: "cpu"})
	routes := s.server.routes()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/resume_memory_occupation":
			s.wakes.Add(1)
		case "/update_weights_from_disk":
			if stumbles.CompareAndSwap(true, false) {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		routes.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Cleanup(cancel)
	return s, stumbles
}

// version returns the weight version and how many requests were answered without weights.
func (s *sleeper) version() (version string, garbled int) {
	s.server.saver.mu.Lock()
	defer s.server.saver.mu.Unlock()
	return s.server.saver.version, s.server.saver.garbled
}

// SGLang's memory is released and resumed like vLLM's sleep mode, whether it keeps its weights or
// loads them again, and no request reaches an engine without weights.
func TestSGLangSleeps(t *testing.T) {
	for name, backup := range map[string]bool{"kept": true, "read again": false} {
		t.Run(name, func(t *testing.T) {
			one, _ := newSGLang(t, "h100", backup)
			g := inFrontOf(t, one)
			g.await("it is awake", all("", "h100"))
			if got := g.ask(); got != "200 1" {
				t.Fatal(got)
			}
			g.enough("", 0)
			g.await("it sleeps", all("asleep", "h100"))
			if got := g.ask(); got != "200 1" || one.wakes.Load() != 1 {
				t.Fatalf("%s; it was woken %d times", got, one.wakes.Load())
			}
			g.await("it is awake", all("", "h100"))
			if version, garbled := one.version(); version != "default" || garbled != 0 {
				t.Errorf("its weights are %q, and %d requests met none", version, garbled)
			}
			g.alive()
		})
	}
}

// The state of sleep is the engine's: a gateway that starts later finds a sleeping engine asleep,
// and completes an unfinished wake-up instead of starting it again.
func TestAGatewayFindsSGLangAsleep(t *testing.T) {
	one, stumbles := newSGLang(t, "h100", false)
	before := inFrontOf(t, one)
	before.await("it is awake", all("", "h100"))
	before.enough("", 0)
	before.await("it sleeps", all("asleep", "h100"))
	stumbles.Store(true)
	g := inFrontOf(t, one)
	g.await("it sleeps, as it did before this gateway came", all("asleep", "h100"))
	if got := g.ask(); got != "200 1" || one.wakes.Load() != 1 {
		t.Errorf("%s; its memory was taken back %d times", got, one.wakes.Load())
	}
	if version, garbled := one.version(); version != "default" || garbled != 0 {
		t.Errorf("its weights are %q, and %d requests met none", version, garbled)
	}
	g.alive()
}
