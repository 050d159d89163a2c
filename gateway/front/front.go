// Package front is an HTTP/1.1 server for the plain requests of clients: a connection is
// one goroutine, which reads a request, runs its handler and writes the answer, head and
// body in one write where they are short. A client that leaves is noticed by the kernel's
// word for all connections together, so that no goroutine has to read while a request
// waits.
//
// What is plain is what can be understood in one way only: HTTP/1.1, lines that end with
// CR LF, a path, one host, and a body of a stated length or none. A connection that brings
// anything else (HTTP/2, HTTP/1.0, upgrades, chunks, "Expect", and everything malformed)
// is net/http's from there on, with the bytes that were read. So of no request this
// package thinks anything that net/http does not.
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

// Server serves the connections of one listener. How long a client may keep a write waiting
// is for the listener to bound: deadlines of a connection cost more than most answers.
type Server struct {
	// Handler serves requests. Values of their headers are shared between requests and
	// must not be changed in place. The context of a request does not end with the handler,
	// only with the connection, so a handler must end whatever it made wait for the context.
	Handler http.Handler
	// Other serves the connections that are handed over.
	Other *http.Server
	// Wrap is put around the listener that Other gets; nil for nothing.
	Wrap func(net.Listener) net.Listener
	// Base is what the contexts of requests are derived from.
	Base context.Context
	// HeaderTimeout bounds the time to receive a request's head, IdleTimeout that
	// between two requests; 0 for no bound.
	HeaderTimeout, IdleTimeout time.Duration
	// MaxHeaderBytes bounds a head that is not handed over.
	MaxHeaderBytes int
	// ErrorLog gets the panics of Handler; nil for log's own.
	ErrorLog *log.Logger

	leaving *leaving
	closing atomic.Bool

	mu       sync.Mutex
	listener net.Listener
	handed   *handed
	conns    map[*conn]struct{}
}

// Serve serves until the listener fails or the server is closed; then it returns
// http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	w, err := watch()
	if err != nil {
		return err
	}
	h := &handed{address: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	s.mu.Lock()
	s.listener, s.handed, s.leaving = l, h, w
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
			// Such as a want of file descriptors.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// Shutdown takes no new connection, closes those that are idle and waits until the others
// are done, or ctx ends. Close is to follow.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	began, wait := time.Now(), time.Millisecond
	for !s.quiet(time.Since(began)) {
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
		s.handed.Close()
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

// forNew is how long a connection that has not sent anything yet is left open: what its
// client believes to have been accepted may be on its way.
const forNew = 5 * time.Second

// quiet closes what is idle, and reports whether nothing is left.
func (s *Server) quiet(since time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state.CompareAndSwap(idle, ended) || since > forNew && c.state.CompareAndSwap(fresh, ended) {
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

// handed is a listener of the connections that are handed over.
type handed struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return h.address }

// give hands a connection over, or closes it where nobody takes it any more.
func (h *handed) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

// resumed is a connection of which something was read already.
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

// CloseWrite is that of the connection.
func (r *resumed) CloseWrite() error { return closeWrite(r.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
