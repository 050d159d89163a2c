// Package wire is an HTTP/1.1 client for replicas. A request is written and its answer
// read in the goroutine of the caller, so that an exchange costs no hand-over between
// goroutines; only a body that is too long for one write, or that is still being
// received, is sent by a goroutine of its own.
//
// It reads answers more strictly than net/http: what two readers could understand in
// two ways is refused. TLS, HTTP/2 and upgraded connections are net/http's.
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Transport is an http.RoundTripper. Header values of the answers that it returns are
// shared between answers and must not be changed in place. Of an httptrace.ClientTrace
// in a request's context it calls Got1xxResponse only.
type Transport struct {
	// Dial opens a connection; its errors are returned as they are.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// IdleTimeout is how long a connection is kept between two requests; 0 for ever.
	IdleTimeout time.Duration
	// HeaderTimeout bounds the time from the sent request to the header of its answer;
	// 0 for none.
	HeaderTimeout time.Duration
	// ContinueTimeout is how long a body is held back that was announced by
	// "Expect: 100-continue".
	ContinueTimeout time.Duration
	// MaxHeaderBytes bounds all headers of an answer, informational ones included.
	MaxHeaderBytes int

	mu     sync.Mutex
	idle   map[string][]*conn // by address, the last used at the end
	sweep  *time.Timer        // nil while no connection is idle
	ending bool               // idle connections were closed, and no request came since
}

// Whole is implemented by bodies of requests that may be there as a whole.
type Whole interface {
	// Whole reports whether reading the body never waits.
	Whole() bool
}

// RoundTrip sends a request over a connection to req.URL.Host and returns the answer
// once its header is there. An error that is not the context's or Dial's means that
// the replica may have acted on the request.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	c := t.take(req.URL.Host)
	if c != nil {
		res, err := c.exchange(req)
		if err == nil || !c.repeats(req, err) {
			return res, err
		}
		// The replica closed the connection while it was idle. A fresh one is closed
		// for another reason.
		if req = again(req); req == nil {
			return nil, err
		}
	}
	c, err := t.open(ctx, req.URL.Host)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	return c.exchange(req)
}

func (t *Transport) open(ctx context.Context, address string) (*conn, error) {
	nc, err := t.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newConn(t, nc, address), nil
}

// again copies a request so that its body begins again; nil where it cannot.
func again(req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	if req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	next := *req
	next.Body = body
	return &next
}

// repeatable reports whether a request may reach a replica twice: by its method's
// definition (RFC 9110, 9.2.1) or the client's word.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

var errClosed = errors.New("the replica closed the connection without an answer")

// unexpected is the error of an answer that ends too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
