// Package front is an HTTP/1.1 server for plain requests. Each connection has one goroutine, which
// reads a request, runs its handler and writes the answer. A short head and body go out in one
// write. epoll reports clients that leave, for all connections together, so that no goroutine has
// to read while a request waits.
//
// A plain request can be understood in only one way: HTTP/1.1, lines that end with CR LF, a path,
// one host, and a body with a stated length or none. If a connection brings anything else (HTTP/2,
// HTTP/1.0, upgrades, chunks, "Expect", or anything malformed), net/http takes it over, with the
// bytes that were already read. So this package never interprets a request differently from
// net/http.
package front

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves the connections of one listener. The listener must bound how long a client may
// block a write: a deadline on each connection would cost more than most answers.
type Server struct {
	// Handler serves requests. Requests share header values, so do not change these in place. The
	// context of a request ends with the connection, not with the handler, so a handler must itself
	// end everything that waits for the context.
	Handler http.Handler
	// Other serves connections that are handed over.
	Other *http.Server
	// Wrap wraps the listener of Other; nil for no wrapper.
	Wrap func(net.Listener) net.Listener
	// Base is the parent of the contexts of requests.
	Base context.Context
	// HeaderTimeout bounds the time to receive a request's head, and IdleTimeout the time between
	// two requests; 0 for no bound.
	HeaderTimeout, IdleTimeout time.Duration
	// MaxHeaderBytes bounds a head that is not handed over.
	MaxHeaderBytes int
	// ErrorLog receives panics of Handler; nil for the standard logger.
	ErrorLog *log.Logger

	leaving *leaving
	closing atomic.Bool

	mu         sync.Mutex
	listener   net.Listener
	handedOver *chanListener
	conns      map[*conn]struct{}
}

// Serve serves until the listener fails or the server is closed. It always returns an error:
// http.ErrServerClosed after Shutdown or Close.
func (s *Server) Serve(l net.Listener) error {
	w, err := watch()
	if err != nil {
		return err
	}
	h := &chanListener{address: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	s.mu.Lock()
	s.listener, s.handedOver, s.leaving = l, h, w
	s.conns = map[*conn]struct{}{}
	s.mu.Unlock()
	if s.closing.Load() {
		s.Close()
		return http.ErrServerClosed
	}
	var other net.Listener = h
	if s.Wrap != nil {
		other = s.Wrap(h)
	}
	go s.Other.Serve(other)
	return s.accept(l)
}

func (s *Server) accept(l net.Listener) error {
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		var passing interface{ Temporary() bool }
		switch {
		case err == nil:
			pause = 0
			go s.newConn(nc).run()
		case s.closing.Load():
			return http.ErrServerClosed
		case errors.As(err, &passing) && passing.Temporary():
			// For example, no file descriptors are left.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// Shutdown stops accepting connections, closes idle ones and waits until the others are done or ctx
// ends. Call Close afterwards.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	began, wait := time.Now(), time.Millisecond
	for !s.closeIdle(time.Since(began)) {
		select {
		case <-ctx.Done():
			s.Other.Shutdown(ctx)
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
	return s.Other.Shutdown(ctx)
}

// Close closes all connections.
func (s *Server) Close() error {
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.nc.Close()
	}
	if s.listener != nil {
		s.handedOver.Close()
		s.leaving.close()
	}
	s.mu.Unlock()
	return s.Other.Close()
}

func (s *Server) stop() {
	s.closing.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		s.listener.Close()
	}
}

// newConnTime is how long Shutdown leaves a connection open on which nothing has arrived: the client may
// have sent a request already.
const newConnTime = 5 * time.Second

// closeIdle closes idle connections and reports whether none is left.
func (s *Server) closeIdle(since time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state.CompareAndSwap(idle, ended) || since > newConnTime && c.state.CompareAndSwap(fresh, ended) {
			c.nc.Close()
		}
	}
	return len(s.conns) == 0
}

func (s *Server) add(c *conn) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Server) logf(format string, args ...any) {
	if s.ErrorLog != nil {
		s.ErrorLog.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// chanListener is a listener that accepts connections that are handed over.
type chanListener struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (h *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *chanListener) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *chanListener) Addr() net.Addr { return h.address }

// give hands a connection over, or closes it if the listener is closed.
func (h *chanListener) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

// resumed is a connection with bytes that were already read.
type resumed struct {
	net.Conn
	rest []byte
}

func (r *resumed) Read(p []byte) (int, error) {
	if len(r.rest) > 0 {
		n := copy(p, r.rest)
		if r.rest = r.rest[n:]; len(r.rest) == 0 {
			r.rest = nil
		}
		return n, nil
	}
	return r.Conn.Read(p)
}

// CloseWrite half-closes the connection.
func (r *resumed) CloseWrite() error { return closeWrite(r.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
