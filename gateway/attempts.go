package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/wire"
	"aliquot.example/internal/dispatch"
)

// unplacedError is the error of a request that got no slot for another attempt.
type unplacedError struct {
	error
	// last is the error of the previous attempt.
	last error
}

// attempts is the transport of an exchange. It retries the request on another replica if the first
// one cannot have acted on it.
type attempts struct {
	x             *exchange
	n             int       // number of attempts
	connectFailed int       // attempts without a connection to the replica
	began         time.Time // start of the current attempt
	trace         httptrace.ClientTrace
	// http2 and sent report whether the current attempt uses HTTP/2, and whether its header was sent
	// over HTTP/2. The trace sets them.
	http2, sent atomic.Bool
}

// begin starts an attempt.
func (a *attempts) begin() {
	a.n++
	a.began = time.Now()
	a.sent.Store(false)
}

// RoundTrip implements http.RoundTripper.
func (a *attempts) RoundTrip(out *http.Request) (*http.Response, error) {
	x := a.x
	way := x.service.transports.to(x.grpc, x.upgrade)
	for {
		res, err := way.RoundTrip(out)
		if isShortage(err) && a.delay(err) {
			if out = a.reopen(out); out == nil {
				return nil, err
			}
			continue
		}
		verdict, pause, again := a.retry(res, err)
		if !again {
			return res, err
		}
		failure := err
		if res != nil {
			res.Body.Close()
		}
		x.ended = true
		if err := x.service.line.Again(out.Context(), &x.pass, verdict, pause); err != nil {
			return nil, &unplacedError{err, failure}
		}
		x.recordStart()
		x.service.metrics.retried.Inc()
		if out = a.reopen(out); out == nil {
			return nil, errGiven
		}
	}
}

// watch sets the trace so that it reports whether an attempt over HTTP/2 was sent. Over HTTP/1, the
// transport itself repeats only requests that were never sent.
func (a *attempts) watch() { a.trace.GotConn, a.trace.WroteHeaders = a.connected, a.wroteHeader }

func (a *attempts) connected(c httptrace.GotConnInfo) {
	if s, ok := c.Conn.(*tls.Conn); ok {
		a.http2.Store(s.ConnectionState().NegotiatedProtocol == "h2")
		return
	}
	ways := a.x.service.transports
	a.http2.Store(ways.to(a.x.grpc, a.x.upgrade) == ways.h2c)
}

func (a *attempts) wroteHeader() { a.sent.Store(a.http2.Load()) }

// reconnectDelay is the time between two attempts to open a connection after this host refused one.
const reconnectDelay = 50 * time.Millisecond

// delay waits after a shortage of this host's own resources. It returns false if the request may not
// wait any longer. The request keeps its slot, because the replica is not the cause.
func (a *attempts) delay(err error) bool {
	x := a.x
	x.server.short.note("replica", err)
	if time.Now().Add(reconnectDelay).After(x.request.Expire) {
		return false
	}
	pause(x.ctx, reconnectDelay)
	return x.ctx.Err() == nil
}

// reopen copies a request for another attempt, because the transport may still use the first one. It
// returns nil if the body cannot be sent again.
func (a *attempts) reopen(r *http.Request) *http.Request {
	x := a.x
	next := new(http.Request)
	*next = *r
	next.URL = new(url.URL)
	*next.URL = *r.URL
	next.URL.Host = x.pass.Endpoint.Address
	if x.body != nil {
		if next.Body = x.open(); next.Body == nil {
			return nil
		}
	}
	return next
}

// retry decides whether to repeat an attempt, and returns the verdict about its replica. It repeats
// a harmless attempt at most Retries times. Attempts without a connection do not count: the queue
// ejects the replica at once, and the request waits on as if the replica had not existed. Either
// needs a body that can be sent again from the start.
func (a *attempts) retry(res *http.Response, err error) (dispatch.Verdict, time.Duration, bool) {
	x := a.x
	verdict, pause, harmless := a.harmless(res, err)
	retries := x.service.config.Upstream.Retries
	switch {
	case !harmless:
		return 0, 0, false
	case verdict == dispatch.Unreachable && retries > 0:
		a.connectFailed++
	case a.n-a.connectFailed > retries:
		return 0, 0, false
	}
	return verdict, pause, x.body == nil || x.body.Open() != nil
}

// harmless reports whether it is harmless to repeat an attempt, and returns the verdict about its replica.
// It is harmless
//   - without a connection, because nothing was sent;
//   - after 503 with Retry-After, or if the replica reports over HTTP/2 that it did not process the
//     request;
//   - after an exchange that broke off before any answer, if the method is idempotent or the client says
//     so (Idempotency-Key).
func (a *attempts) harmless(res *http.Response, err error) (verdict dispatch.Verdict, pause time.Duration, ok bool) {
	x := a.x
	switch {
	case err == nil:
		if res.StatusCode != http.StatusServiceUnavailable {
			return 0, 0, false
		}
		pause, ok = retryAfter(res)
		return dispatch.Busy, pause, ok
	case x.ctx.Err() != nil, isShortage(err), errors.Is(err, wire.ErrRequest), x.body != nil && x.body.Err() != nil:
		return 0, 0, false
	case errors.Is(err, errNotBegun):
		return dispatch.Busy, 0, true // the replica shuts down, or takes no further stream
	}
	verdict = verdictOf(err)
	return verdict, 0, verdict == dispatch.Unreachable || idempotent(x.in) && !isTimeout(err)
}

func verdictOf(err error) dispatch.Verdict {
	var dial dialError
	if errors.As(err, &dial) {
		return dispatch.Unreachable
	}
	return dispatch.Failed
}

// retryAfter reads the Retry-After header of a replica's refusal.
func retryAfter(r *http.Response) (time.Duration, bool) {
	v := r.Header.Get("Retry-After")
	if v == "" {
		return 0, false
	}
	if s, err := strconv.Atoi(v); err == nil && s >= 0 {
		return time.Duration(min(s, 3600)) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}

func idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != ""
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &n) && n.Timeout())
}
