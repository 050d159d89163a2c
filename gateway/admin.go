package gateway

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/api"
)

// defaultWindow is the default window of the series.
const defaultWindow = time.Minute

// adminTime limits the time to read a request to the admin listener, and to write its response. A
// profile may take its own duration in addition.
const adminTime = 30 * time.Second

// adminServer returns the server of the admin API for operators and autoscalers. It has its own
// listener.
func (s *Server) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ready", s.serveReady)
	mux.HandleFunc("GET /v1/services", s.serveServices)
	mux.HandleFunc("GET /v1/services/{service}/concurrency", s.serveConcurrency)
	mux.HandleFunc("GET /v1/services/{service}/latency", s.serveLatency)
	mux.HandleFunc("PUT /v1/services/{service}/awake", s.serveAwake)
	mux.HandleFunc("GET /v1/usage", s.serveUsage)
	mux.HandleFunc("GET /v1/requests", s.serveRequests)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: adminTime, WriteTimeout: adminTime,
		IdleTimeout: time.Minute, ErrorLog: s.discardLog,
	}
}

// serveReady answers 200 while the gateway accepts requests, and 503 once it drains.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.leaving.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ready\n"))
}

func (s *Server) serveConcurrency(w http.ResponseWriter, r *http.Request) {
	v := s.known(w, r.PathValue("service"))
	if v == nil {
		return
	}
	window, ok := windowOf(w, r)
	if !ok {
		return
	}
	only := r.FormValue("class")
	now := time.Now()
	out := api.Concurrency{Service: v.name, Now: now, StepSeconds: 1, Whole: v.line.Whole(),
		Quantile: v.config.Quantile, Series: []api.Point{}}
	for _, p := range v.line.Concurrency(now, window) {
		point := api.Point{
			Time: p.Second, Queued: p.Queued, Active: p.Active, Class: map[string]api.ClassPoint{},
			QueuedTokens: p.Tokens.Queued, ActiveTokens: p.Tokens.Active,
		}
		for class, active := range p.Class {
			if only == "" || only == class {
				point.Class[class] = api.ClassPoint{Active: active, Tokens: p.Tokens.Class[class]}
			}
		}
		if v.language != nil {
			point.Tokens = v.language.series.at(p.Second)
		}
		out.Series = append(out.Series, point)
	}
	writeJSON(w, out)
}

func (s *Server) serveServices(w http.ResponseWriter, r *http.Request) {
	out := []api.Service{}
	p := s.plan.Load()
	for _, v := range p.services {
		state := v.line.State()
		one := api.Service{Service: v.name, Queued: state.Queued, Active: state.Active, Replicas: []api.Replica{},
			Quantile: v.config.Quantile}
		one.Waits, one.Starts = p.waits(state.Waits), s.metrics.starts.of(v.name)
		if l, shared := v.line.(*line.Shared); shared {
			role, epoch, owner := l.Role()
			one.Role, one.Epoch, one.Owner = role.String(), epoch, string(owner)
		}
		for _, r := range state.Replicas {
			one.Replicas = append(one.Replicas, api.Replica{
				ID: r.ID, Class: r.Class, Slices: r.Slices, Slots: r.Slots, Usable: r.Usable, Active: r.Active,
				KV: r.KV, MaxPrompt: r.MaxPrompt, InFlight: r.InFlight,
				Rate: r.Rate, Ejected: r.Ejected, Probation: r.Probation, Leaving: r.Leaving,
				Sleep: sleepNames[r.Sleep],
			})
		}
		if v.language != nil {
			one.QueuedTokens, one.ActiveTokens = state.QueuedTokens, state.ActiveTokens
			one.Tokens = v.language.series.last(time.Now(), 60)
		}
		out = append(out, one)
	}
	writeJSON(w, out)
}

// waits sums up waiting requests by configured priority and tenant, sorted by priority, the most
// urgent first, and number of requests.
func (p *plan) waits(all []line.Wait) (out []api.Wait) {
	type key struct {
		priority int
		tenant   string
	}
	sums := map[key]int{}
	for _, w := range all {
		sums[key{w.Priority, p.tenants.known(w.Tenant)}] += w.Requests
	}
	for _, k := range slices.SortedFunc(maps.Keys(sums), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(sums[b], sums[a]),
			cmp.Compare(a.tenant, b.tenant))
	}) {
		out = append(out, api.Wait{Priority: p.priorityName(k.priority), Tenant: k.tenant, Requests: sums[k]})
	}
	return out
}

// priorityName returns the configured name of a priority, "" if it has none.
func (p *plan) priorityName(priority int) string {
	if names := p.config.Priorities; priority < len(names) {
		return names[priority]
	}
	return ""
}

// known returns a service by name. If there is none, it answers 404 and returns nil.
func (s *Server) known(w http.ResponseWriter, name string) *service {
	v := s.plan.Load().find(name)
	if v == nil {
		http.Error(w, "no such service", http.StatusNotFound)
	}
	return v
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
