// Package ui serves the web page that shows nodes with their slices, services with their queues, and
// the autoscaler's decisions. It reads the cluster and changes nothing.
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

// web is the page. Third-party code and its licences are in web/vendor.
//
//go:embed web
var web embed.FS

// Options configure a Server.
type Options struct {
	Nomad *nomad.Client
	// Consul may be nil. Gateways are then all gateways.
	Consul *consul.Client
	// Gateways are addresses of gateways' admin listeners, in addition to those in Consul.
	Gateways []string
	// NomadUI is the address of Nomad's web page for browsers, "" for no links to it.
	NomadUI string
	// History reads a Prometheus for more than the last hour. It may be nil.
	History *watch.History
	Log     *slog.Logger
}

// Server serves the web page and its API.
type Server struct {
	o          Options
	watch      *watch.Watch
	authorizer *authorizer
	// streams is the number of open streams.
	streams  atomic.Int64
	drawings drawings
	// historyReads limits simultaneous reads of Prometheus.
	historyReads chan struct{}
	// ctx ends the streams.
	ctx context.Context
}

// New returns a server. Its Handler needs a running Run.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		o: o, ctx: context.Background(), authorizer: newAuthorizer(nomadGuard{o.Nomad}),
		historyReads: make(chan struct{}, maxHistoryReads),
		watch:        watch.New(watch.Options{Nomad: o.Nomad, Consul: o.Consul, Gateways: o.Gateways, Log: o.Log}),
	}
}

// OfNomad limits the size of responses, for a client of Nomad.
func OfNomad(base http.RoundTripper) http.RoundTripper {
	return watch.Bounded(base, watch.MaxNomadAnswer)
}

// OfConsul limits the size of responses, for a client of Consul.
func OfConsul(base http.RoundTripper) http.RoundTripper { return watch.Bounded(base, watch.MaxAnswer) }

// Run reads the cluster until ctx ends.
func (s *Server) Run(ctx context.Context) { s.watch.Run(ctx) }

// policy allows the page only its own files, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// Handler returns the handler of all requests. The end of ctx ends the streams, so that a server can
// shut down.
func (s *Server) Handler(ctx context.Context) http.Handler {
	s.ctx = ctx
	files, err := fs.Sub(web, "web")
	if err != nil {
		panic(err) // impossible: the folder is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /v1/ready", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ready\n")) })
	mux.HandleFunc("GET /v1/session", s.serveSession)
	mux.HandleFunc("POST /v1/session", s.openSession)
	mux.HandleFunc("DELETE /v1/session", s.closeSession)
	mux.Handle("GET /v1/history", s.authorizer.authorize(http.HandlerFunc(s.serveHistory)))
	mux.Handle("GET /v1/stream", s.authorizer.authorize(http.HandlerFunc(s.serveStream)))
	// Pages of other sites must not open or end a session.
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

// views are the views that a stream can show. service may be "" for most of them.
var views = map[string]func(f view.Facts, service string) any{
	"cluster":         func(f view.Facts, _ string) any { return view.ClusterOf(f) },
	"services":        func(f view.Facts, _ string) any { return view.ServicesOf(f) },
	view.ScalingView:  func(f view.Facts, service string) any { return view.ScalingOf(f, service) },
	"events":          func(f view.Facts, _ string) any { return view.EventsOf(f) },
	view.RequestsView: func(f view.Facts, service string) any { return view.RequestsOf(f, service) },
	"service":         func(f view.Facts, service string) any { return view.ServiceOf(f, service) },
}

// frame is the shortest time between two updates of a stream.
const frame = 250 * time.Millisecond
