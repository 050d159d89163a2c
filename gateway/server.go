// Package gateway is the HTTP gateway in front of all replicas of a service. It keeps one queue per
// service and gives each request the fastest free slot. Package dispatch decides which request is
// next.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/conn"
	"aliquot.example/gateway/front"
	"aliquot.example/gateway/intake"
	"aliquot.example/internal/allowance"
)

// Options are the parts of a Server.
type Options struct {
	// Source creates the source of a service's replicas.
	Source func(config.Service) (Source, error)
	// Scaler starts services from zero. It may be nil if no service has a wake block.
	Scaler Scaler
	// Rates stores learned rates. It may be nil.
	Rates RateStore
	// Registrar registers the gateway. It may be nil.
	Registrar Registrar
	// Peers are the other gateways of the same services, nil for none.
	Peers Peers
	// Dial opens connections to replicas, nil for TCP.
	Dial Dial
	Log  *slog.Logger
}

// httpServer serves the public listener: an *http.Server, or a *front.Server around one.
type httpServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
}

// Registrar registers a running gateway for clients.
type Registrar interface {
	// Register registers the addresses of the public and the admin listener. It is called
	// repeatedly, and does nothing if they are already registered.
	Register(ctx context.Context, public, admin string) error
	// Deregister removes the registration.
	Deregister(ctx context.Context) error
}

// Server is a gateway.
type Server struct {
	config     *config.Config // the first configuration; plan has the parts that can change
	options    Options
	plan       atomic.Pointer[plan]
	metrics    *metrics
	accounts   *accounts
	access     *accessLog
	log        *slog.Logger
	discardLog *log.Logger
	buffers    *bufferPool
	bodies     *intake.Store
	short      *shortages
	allowances allowances

	tls           *tls.Config // nil without TLS
	public        httpServer
	admin         *http.Server
	publicAddress net.Addr
	adminAddress  net.Addr
	inflight      atomic.Int64
	leaving       atomic.Bool
	ready         chan struct{}

	announcing sync.Mutex // serializes Register and Deregister
	reloading  sync.Mutex
	replaced   []*plan         // earlier plans with arriving requests; guarded by reloading
	background context.Context // nil before Run
	tasks      *sync.WaitGroup
}

// errShutDown is the cancellation cause of requests that are cut off at the end of a drain.
var errShutDown = errors.New("the gateway is shutting down")

// New creates a gateway. It opens no listener yet.
func New(c *config.Config, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		config: c, options: o, log: o.Log, metrics: newMetrics(), accounts: newAccounts(),
		allowances: allowances{of: map[string]*allowance.Account{}}, buffers: &bufferPool{},
		discardLog: log.New(io.Discard, "", 0),
		ready:      make(chan struct{}), bodies: intake.NewStore(intake.Limits(c.Listen.Bodies)),
	}
	s.short = &shortages{counts: s.metrics.short, log: o.Log}
	first, err := s.newPlan(c, &plan{config: c})
	if err != nil {
		return nil, err
	}
	s.plan.Store(first)
	services := func() []*service { return s.plan.Load().services }
	var live func() int
	if o.Peers != nil {
		live = o.Peers.Live
	}
	s.metrics.registry.MustRegister(newLines(services, live), newEngines(services))
	if l := c.Listen; l.CertFile != "" {
		pair, err := loadCertificate(l.CertFile, l.KeyFile, o.Log)
		if err != nil {
			return nil, err
		}
		s.tls = &tls.Config{GetCertificate: pair.get, NextProtos: []string{"h2", "http/1.1"}}
	}
	if s.access, err = openAccessLog(c.AccessLog, s.metrics.dropped); err != nil {
		return nil, err
	}
	return s, nil
}

// Run serves until ctx ends. It then drains the gateway and returns.
func (s *Server) Run(ctx context.Context) error {
	public, admin, err := s.listen()
	if err != nil {
		return err
	}
	s.publicAddress, s.adminAddress = public.Addr(), admin.Addr()
	// Background tasks continue after ctx until the requests in flight have ended: these may still
	// wait for a replica to be found or started.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.startBackground(background)
	if r := s.options.Registrar; r != nil {
		// With ctx, so that a hanging request does not delay the shutdown.
		s.tasks.Go(func() { s.register(ctx, r) })
	}
	defer s.tasks.Wait()
	defer stop()
	requests, cutOff := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutOff(errShutDown)
	failed := make(chan error, 2)
	s.public, s.admin = s.publicServer(requests), s.adminServer()
	go func() { failed <- s.public.Serve(public) }()
	go func() { failed <- s.admin.Serve(admin) }()
	s.log.Info("gateway is serving", "address", s.publicAddress.String(), "admin", s.adminAddress.String(),
		"services", len(s.config.Services))
	close(s.ready)
	select {
	case err = <-failed:
		s.public.Close()
	case <-ctx.Done():
		s.drain(cutOff)
	}
	s.admin.Close()
	for _, v := range s.plan.Load().services {
		v.transports.close()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) listen() (public, admin net.Listener, err error) {
	if public, err = net.Listen("tcp", s.config.Listen.Address); err != nil {
		return nil, nil, err
	}
	if admin, err = net.Listen("tcp", s.config.Admin); err != nil {
		public.Close()
		return nil, nil, err
	}
	if p := s.options.Peers; p != nil {
		if err := p.Listen(); err != nil {
			public.Close()
			admin.Close()
			return nil, nil, fmt.Errorf("peers: %w", err)
		}
	}
	return s.bound(public), admin, nil
}

// bound limits the connections of the public listener, and adds TLS.
func (s *Server) bound(public net.Listener) net.Listener {
	l := s.config.Listen
	files := fileLimit()
	connections := connectionsFor(files, l.MaxConnections)
	if connections < l.MaxConnections {
		s.log.Warn("the limit of open files is too low for max_connections; accepting fewer connections",
			"nofile", files, "max_connections", l.MaxConnections, "accepted", connections)
	}
	bounded := shortageListener{conn.Bounded(public, connections, l.WriteTimeout), s.short}
	switch {
	case s.fronted():
		return bounded
	case s.tls == nil:
		return conn.Plain(bounded, l.MaxHeaderBytes)
	}
	return conn.Secure(bounded, s.tls, l.MaxHeaderBytes, l.HeaderTimeout)
}

// Ready returns a channel that is closed once the gateway listens and Addresses is valid.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addresses returns the addresses of the public and the admin listener.
func (s *Server) Addresses() (public, admin string) {
	return s.publicAddress.String(), s.adminAddress.String()
}

// fronted reports whether the gateway uses its own HTTP server. It does not with TLS, because the
// protocol is known only after the handshake.
func (s *Server) fronted() bool { return s.config.Listen.Server == "front" && s.tls == nil }

func (s *Server) publicServer(requests context.Context) httpServer {
	l, other := s.config.Listen, s.netHTTP(requests)
	if !s.fronted() {
		return other
	}
	return &front.Server{
		Handler:        s,
		Other:          other,
		Wrap:           func(handed net.Listener) net.Listener { return conn.Plain(handed, l.MaxHeaderBytes) },
		Base:           requests,
		HeaderTimeout:  l.HeaderTimeout,
		IdleTimeout:    l.IdleTimeout,
		MaxHeaderBytes: l.MaxHeaderBytes,
		ErrorLog:       s.discardLog,
	}
}

func (s *Server) netHTTP(requests context.Context) *http.Server {
	l := s.config.Listen
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s,
		Protocols:         p,
		TLSConfig:         s.tls,
		ReadHeaderTimeout: l.HeaderTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    l.MaxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: l.MaxStreams},
		ErrorLog:          s.discardLog,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return withStreams(conn.Context(ctx, c))
		},
		ConnState: conn.State,
	}
}

// drain shuts the gateway down in three steps. First it reports that it is leaving and keeps
// serving, so that load balancers stop using it. Then it accepts no new connections and waits for
// requests in flight, including upgraded connections. At the timeout it cuts them off.
func (s *Server) drain(cutOff context.CancelCauseFunc) {
	s.leaving.Store(true)
	s.log.Info("gateway is draining", "delay", s.config.Drain.Delay, "timeout", s.config.Drain.Timeout)
	if p := s.options.Peers; p != nil {
		p.Leave()
	}
	if r := s.options.Registrar; r != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		s.announcing.Lock()
		err := r.Deregister(ctx)
		s.announcing.Unlock()
		if err != nil {
			s.log.Warn("cannot deregister the gateway", "error", err)
		}
		cancel()
	}
	pause(context.Background(), s.config.Drain.Delay)
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Drain.Timeout)
	defer cancel()
	err := s.public.Shutdown(ctx)
	for s.inflight.Load() > 0 && ctx.Err() == nil {
		pause(ctx, 10*time.Millisecond)
	}
	if err != nil || s.inflight.Load() > 0 {
		s.log.Warn("drain timeout reached; cutting off requests", "count", s.inflight.Load())
	}
	cutOff(errShutDown)
	deadline, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for s.inflight.Load() > 0 && deadline.Err() == nil {
		pause(deadline, 10*time.Millisecond)
	}
	s.public.Close()
}

// bufferPool holds the buffers for copying answers.
type bufferPool struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (b *bufferPool) Get() []byte {
	if v, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return v[:]
	}
	return make([]byte, bufferSize)
}

func (b *bufferPool) Put(buf []byte) {
	if len(buf) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(buf))
	}
}
