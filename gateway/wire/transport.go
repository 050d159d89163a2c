// Package wire is an HTTP/1.1 client for replicas. It writes a request and reads its answer in the
// caller's goroutine, so that an exchange needs no switch between goroutines. Only a body that is
// too long for one write, or that is still being received, is sent by a separate goroutine.
//
// It is stricter with answers than net/http: it rejects whatever two readers could understand
// differently. It leaves TLS, HTTP/2 and upgraded connections to net/http.
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

// Transport is an http.RoundTripper. The answers that it returns share header values, so do not
// change these in place. Of an httptrace.ClientTrace in a request's context it calls only
// Got1xxResponse.
type Transport struct {
	// Dial opens a connection. RoundTrip returns its errors unchanged.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// IdleTimeout is how long a connection is kept between two requests; 0 for no limit.
	IdleTimeout time.Duration
	// HeaderTimeout bounds the time from the end of sending the request to the answer's header; 0
	// for no limit.
	HeaderTimeout time.Duration
	// ContinueTimeout is how long the body of a request with "Expect: 100-continue" is held back.
	ContinueTimeout time.Duration
	// MaxHeaderBytes bounds the headers of an answer in total, including informational ones.
	MaxHeaderBytes int

	mu     sync.Mutex
	idle   map[string][]*conn // by address, the last used one at the end
	sweep  *time.Timer        // nil while no connection is idle
	ending bool               // CloseIdleConnections was called, and no request has come since
}

// Whole is implemented by request bodies that may already be complete.
type Whole interface {
	// Whole reports whether the body can be read to its end without waiting.
	Whole() bool
}

// RoundTrip sends a request over a connection to req.URL.Host and returns the answer once its
// header has been received. After an error that is neither the context's nor Dial's, the replica
// may have acted on the request.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	c := t.take(req.URL.Host)
	if c != nil {
		res, err := c.exchange(req)
		if err == nil || !c.repeats(req, err) {
			return res, err
		}
		// The replica closed the connection while it was idle: retry on a new one. A new connection
		// that is closed has another cause.
		if req = rewound(req); req == nil {
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

// rewound copies a request with its body rewound; nil if that is not possible.
func rewound(req *http.Request) *http.Request {
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

// repeatable reports whether a request may reach a replica twice, by the definition of its method
// (RFC 9110, 9.2.1) or because the client says so.
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

// unexpected converts the io.EOF of an answer that ends too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
