package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot.example/e2e/modelserver/hardware"
)

type server struct {
	model     string
	options   options
	state     atomic.Pointer[state]
	metrics   metrics
	sleepMode sleepMode
	saver     saver
}

// state is the server's current state. Fields are nil while the server loads.
type state struct {
	hw       *hardware.Hardware
	backend  backend
	draining bool
}

// unready returns why no request can be served, or "".
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
	s := &server{model: o.model, options: o, saver: saver{version: "default"}}
	s.state.Store(&state{})
	m := metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "modelserver_requests_total",
			Help: "Completions by HTTP status; 499 means that the client left."}, []string{"code"}),
		tokens: prometheus.NewCounter(prometheus.CounterOpts{Name: "modelserver_tokens_total",
			Help: "Generated tokens."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "modelserver_request_seconds",
			Help: "Time of a completion, waiting included.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 14)}),
	}
	m.registry.MustRegister(m.requests, m.tokens, m.seconds,
		s.gauge("modelserver_slots", "Requests that can be served at a time.", func(o occupancy) int { return o.most }),
		s.gauge("modelserver_slots_busy", "Requests being served.", func(o occupancy) int { return o.running }),
		s.gauge("modelserver_waiting", "Requests waiting for a slot.", func(o occupancy) int { return o.waiting }))
	s.metrics = m
	return s
}

// gauge returns a gauge of a value of the backend, which is 0 while there is no backend.
func (s *server) gauge(name, help string, value func(occupancy) int) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		b := s.state.Load().backend
		if b == nil {
			return 0
		}
		return float64(value(b.occupancy()))
	})
}

// load makes the server ready on the hardware. What it starts ends with ctx.
func (s *server) load(ctx context.Context, hw *hardware.Hardware) {
	if s.options.engine == "" {
		s.state.Store(&state{hw: hw, backend: newSlots(s.options, hw.Speed())})
		return
	}
	o := s.options
	if o.engine == engineOfGrant {
		o.engine = hw.Grant.Class
	}
	b := newBatching(o)
	names := asVLLMNames
	if s.options.saver {
		names = asSGLangNames
	}
	b.export(s.metrics.registry, s.model, names)
	go b.run(ctx)
	s.state.Store(&state{hw: hw, backend: b})
}

// busy returns the percentage of slots in use.
func (s *server) busy() int {
	b := s.state.Load().backend
	if b == nil {
		return 0
	}
	o := b.occupancy()
	return 100 * o.running / o.most
}

// drain makes the server reject new requests.
func (s *server) drain() {
	was := s.state.Load()
	s.state.Store(&state{hw: was.hw, backend: was.backend, draining: true})
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /v1/info", s.info)
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("POST /v1/completions", s.complete(false))
	mux.HandleFunc("POST /v1/chat/completions", s.complete(true))
	mux.HandleFunc("POST /v1/responses", s.handle(s.respond))
	mux.HandleFunc("POST /v1/messages", s.handle(s.message))
	mux.HandleFunc("POST /v1/embeddings", s.handle(s.embed))
	if s.options.sleeps {
		mux.HandleFunc("POST /sleep", s.sleep)
		mux.HandleFunc("POST /wake_up", s.wakeUp)
		mux.HandleFunc("GET /is_sleeping", s.isSleeping)
	}
	if s.options.saver {
		s.memorySaver(mux)
	}
	mux.HandleFunc("GET /v2/health/ready", s.health)
	mux.HandleFunc("POST /v2/models/{model}/infer", s.infer)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// metricsOnly serves what Triton serves on its metrics port.
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
	model := map[string]any{"id": s.model, "object": "model", "created": time.Now().Unix(), "owned_by": "aliquot"}
	if b, ok := s.state.Load().backend.(*batching); ok {
		model["max_model_len"] = b.longest
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{model}})
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
