package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// defaultWindow is the window of the concurrency series when none is asked for.
const defaultWindow = time.Minute

// adminServer serves what operators and autoscalers read. It never listens where
// clients do.
func (s *Server) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ready", s.serveReady)
	mux.HandleFunc("GET /v1/services", s.serveServices)
	mux.HandleFunc("GET /v1/services/{service}/concurrency", s.serveConcurrency)
	mux.HandleFunc("GET /v1/usage", s.serveUsage)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, ErrorLog: s.quiet}
}

// serveReady answers 200 while the gateway takes requests and 503 from the moment
// that it drains.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.leaving.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ready\n"))
}

// Concurrency is the answer of /v1/services/<service>/concurrency.
type Concurrency struct {
	Service     string             `json:"service"`
	Now         time.Time          `json:"now"`
	StepSeconds int                `json:"step_seconds"`
	Series      []ConcurrencyPoint `json:"series"`
}

// ConcurrencyPoint is the time-weighted mean of one second.
type ConcurrencyPoint struct {
	Time   int64                       `json:"t"` // Unix second
	Queued float64                     `json:"queued"`
	Active float64                     `json:"active"`
	Class  map[string]ConcurrencyClass `json:"class"`
	Tokens *TokensPoint                `json:"tokens,omitempty"` // of a language model
}

// ConcurrencyClass is the part of one class of hardware.
type ConcurrencyClass struct {
	Active float64 `json:"active"`
}

func (s *Server) serveConcurrency(w http.ResponseWriter, r *http.Request) {
	v := s.find(r.PathValue("service"))
	if v == nil {
		http.Error(w, "no such service", http.StatusNotFound)
		return
	}
	window := defaultWindow
	if text := r.FormValue("window"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second {
			http.Error(w, `window: want a duration of at least "1s"`, http.StatusBadRequest)
			return
		}
		window = d
	}
	only := r.FormValue("class")
	now := time.Now()
	out := Concurrency{Service: v.name, Now: now, StepSeconds: 1, Series: []ConcurrencyPoint{}}
	for _, p := range v.line.Concurrency(now, window) {
		point := ConcurrencyPoint{Time: p.Second, Queued: p.Queued, Active: p.Active, Class: map[string]ConcurrencyClass{}}
		for class, active := range p.Class {
			if only == "" || only == class {
				point.Class[class] = ConcurrencyClass{active}
			}
		}
		if v.language != nil {
			point.Tokens = v.language.series.at(p.Second)
		}
		out.Series = append(out.Series, point)
	}
	writeJSON(w, out)
}

// ServiceState is one service in the answer of /v1/services.
type ServiceState struct {
	Service  string         `json:"service"`
	Queued   int            `json:"queued"`
	Active   map[string]int `json:"active"`
	Replicas []ReplicaState `json:"replicas"`
	Tokens   *TokensPoint   `json:"last_minute,omitempty"` // of a language model
}

// ReplicaState is one replica.
type ReplicaState struct {
	ID        string  `json:"id"`
	Class     string  `json:"class"`
	Slices    int     `json:"slices"`
	Slots     int     `json:"slots"`
	Usable    int     `json:"usable"`
	Active    int     `json:"active"`
	KV        int     `json:"kv_tokens,omitempty"`       // size of the engine's cache
	MaxPrompt int     `json:"max_model_len,omitempty"`   // longest prompt
	InFlight  int     `json:"inflight_tokens,omitempty"` // tokens of prompts and answers being served
	Rate      float64 `json:"rate"`
	Ejected   bool    `json:"ejected,omitempty"`
	Probation bool    `json:"probation,omitempty"`
	Leaving   bool    `json:"leaving,omitempty"`
}

func (s *Server) serveServices(w http.ResponseWriter, r *http.Request) {
	out := []ServiceState{}
	for _, v := range s.plan.Load().services {
		state := v.line.State()
		one := ServiceState{Service: v.name, Queued: state.Queued, Active: state.Active, Replicas: []ReplicaState{}}
		for _, r := range state.Replicas {
			one.Replicas = append(one.Replicas, ReplicaState{
				ID: r.ID, Class: r.Class, Slices: r.Slices, Slots: r.Slots, Usable: r.Usable, Active: r.Active,
				KV: r.KV, MaxPrompt: r.MaxPrompt, InFlight: r.InFlight,
				Rate: r.Rate, Ejected: r.Ejected, Probation: r.Probation, Leaving: r.Leaving,
			})
		}
		if v.language != nil {
			one.Tokens = v.language.series.last(time.Now(), 60)
		}
		out = append(out, one)
	}
	writeJSON(w, out)
}

func (s *Server) find(name string) *service { return s.plan.Load().find(name) }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
