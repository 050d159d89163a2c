// Package ui is the page that shows the loop: nodes and their slices, services and
// their queues, what the autoscaler does and why. It reads and changes nothing.
package ui

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/ui/view"
	"aliquot.example/ui/watch"
)

// web is the page. What it has from others stands in web/vendor with its licences.
//
//go:embed web
var web embed.FS

// Options are what a Server is wired from.
type Options struct {
	Nomad *nomad.Client
	// Consul may be nil, then Gateways are all.
	Consul *consul.Client
	// Gateways are addresses of admin listeners.
	Gateways []string
	// NomadUI is where browsers find Nomad's own page; "" for no links to it.
	NomadUI string
	// History is a Prometheus with more than the last hour; nil without one.
	History *watch.History
	Log     *slog.Logger
}

// Server answers browsers.
type Server struct {
	o     Options
	watch *watch.Watch
	doors *doors
	// streams counts the browsers that follow a view.
	streams  atomic.Int64
	drawings drawings
	// looks are those at Prometheus that may be going on.
	looks chan struct{}
	// ctx ends the streams.
	ctx context.Context
}

// New returns a server; Run must run beside its Handler.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		o: o, ctx: context.Background(), doors: newDoors(nomadGuard{o.Nomad}), looks: make(chan struct{}, mostLooks),
		watch: watch.New(watch.Options{Nomad: o.Nomad, Consul: o.Consul, Gateways: o.Gateways, Log: o.Log}),
	}
}

// OfNomad bounds the answers to a client that reads Nomad, OfConsul to one that reads Consul.
func OfNomad(base http.RoundTripper) http.RoundTripper { return watch.Bounded(base, watch.MostOfNomad) }

// OfConsul is OfNomad for Consul.
func OfConsul(base http.RoundTripper) http.RoundTripper { return watch.Bounded(base, watch.MostAnswer) }

// Run reads the cluster until ctx ends, which also ends the streams to browsers.
func (s *Server) Run(ctx context.Context) { s.watch.Run(ctx) }

// policy is what browsers let the page do: its own files, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// Handler answers all requests. ctx ends the streams, so that a server can shut down.
func (s *Server) Handler(ctx context.Context) http.Handler {
	s.ctx = ctx
	files, err := fs.Sub(web, "web")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /v1/ready", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ready\n")) })
	mux.HandleFunc("GET /v1/session", s.serveSession)
	mux.HandleFunc("POST /v1/session", s.openSession)
	mux.HandleFunc("DELETE /v1/session", s.closeSession)
	mux.Handle("GET /v1/history", s.doors.behind(http.HandlerFunc(s.serveHistory)))
	mux.Handle("GET /v1/stream", s.doors.behind(http.HandlerFunc(s.serveStream)))
	// A page of another site may neither open a session nor end one.
	return headers(http.NewCrossOriginProtection().Handler(mux))
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// views are what a stream can show; service is "" for those that need none.
var views = map[string]func(f view.Facts, service string) any{
	"cluster":         func(f view.Facts, _ string) any { return view.ClusterOf(f) },
	"services":        func(f view.Facts, _ string) any { return view.ServicesOf(f) },
	view.ScalingView:  func(f view.Facts, service string) any { return view.ScalingOf(f, service) },
	"events":          func(f view.Facts, _ string) any { return view.EventsOf(f) },
	view.RequestsView: func(f view.Facts, service string) any { return view.RequestsOf(f, service) },
	"service":         func(f view.Facts, service string) any { return view.ServiceOf(f, service) },
}

// frame is the time between two pictures: what happens meanwhile is in the next.
const frame = 250 * time.Millisecond
