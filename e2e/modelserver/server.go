package main

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot/e2e/modelserver/hardware"
)

type server struct {
	model   string
	options options
	state   atomic.Pointer[state]
	metrics metrics
}

// state is what the server is at a moment; nil fields mean that it still loads.
type state struct {
	hw       *hardware.Hardware
	engine   *engine
	draining bool
}

// unready says why no request can be served, "" when it can.
func (s *state) unready() string {
	switch {
	case s.hw == nil:
		return "loading the model"
	case s.draining:
		return "stopping"
	default:
		return s.hw.Problem()
	}
}

type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	tokens   prometheus.Counter
	seconds  prometheus.Histogram
}

func newServer(o options) *server {
	s := &server{model: o.model, options: o}
	s.state.Store(&state{})
	m := metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "modelserver_requests_total", Help: "Completions by HTTP status; 499 means that the client left."}, []string{"code"}),
		tokens:   prometheus.NewCounter(prometheus.CounterOpts{Name: "modelserver_tokens_total", Help: "Generated tokens."}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "modelserver_request_seconds", Help: "Time of a completion, waiting included.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 14)}),
	}
	m.registry.MustRegister(m.requests, m.tokens, m.seconds,
		s.gauge("modelserver_slots", "Requests that can be served at a time.", func(e *engine) int { return cap(e.slots) }),
		s.gauge("modelserver_slots_busy", "Requests being served.", func(e *engine) int { return len(e.slots) }),
		s.gauge("modelserver_waiting", "Requests waiting for a slot.", func(e *engine) int { return int(e.waiting.Load()) }))
	s.metrics = m
	return s
}

// gauge reads a value of the engine, 0 while there is none.
func (s *server) gauge(name, help string, value func(*engine) int) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		e := s.state.Load().engine
		if e == nil {
			return 0
		}
		return float64(value(e))
	})
}

// load makes the server ready on the hardware.
func (s *server) load(hw *hardware.Hardware) {
	s.state.Store(&state{hw: hw, engine: newEngine(s.options, hw.Speed())})
}

// busy is the part of the slots in use, in percent.
func (s *server) busy() int {
	e := s.state.Load().engine
	if e == nil {
		return 0
	}
	return 100 * len(e.slots) / cap(e.slots)
}

// drain turns new requests away.
func (s *server) drain() {
	was := s.state.Load()
	s.state.Store(&state{hw: was.hw, engine: was.engine, draining: true})
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /v1/info", s.info)
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, false) })
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, true) })
	mux.HandleFunc("GET /v2/health/ready", s.health)
	mux.HandleFunc("POST /v2/models/{model}/infer", s.infer)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// metricsOnly serves what Triton serves on a port of its own.
func (s *server) metricsOnly() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if reason := s.state.Load().unready(); reason != "" {
		reply(w, http.StatusServiceUnavailable, map[string]string{"status": reason})
		return
	}
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"object": "list",
		"data":   []map[string]any{{"id": s.model, "object": "model", "created": time.Now().Unix(), "owned_by": "aliquot"}},
	})
}

func (s *server) info(w http.ResponseWriter, _ *http.Request) {
	state := s.state.Load()
	if state.hw == nil {
		reply(w, http.StatusServiceUnavailable, map[string]string{"status": state.unready()})
		return
	}
	info := state.hw.Info()
	info.Model, info.Slots = s.model, s.options.slots
	info.TokensPerSecond = s.options.rate * state.hw.Speed()
	reply(w, http.StatusOK, info)
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
