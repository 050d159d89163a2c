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

// unplacedError wraps why a request that was to be tried again got no slot.
type unplacedError struct {
	error
	// last is how the attempt before ended.
	last error
}

// attempts is the transport of an exchange: it tries the request on another replica
// as long as the first cannot have acted on it.
type attempts struct {
	x         *exchange
	n         int       // how many have begun
	unreached int       // of these, how many found nobody at the replica's address
	began     time.Time // the one under way
	trace     httptrace.ClientTrace
	// The trace tells of the attempt under way whether it is over HTTP/2, and sent.
	http2, sent atomic.Bool
}

// begin counts an attempt.
func (a *attempts) begin() {
	a.n++
	a.began = time.Now()
	a.sent.Store(false)
}

// RoundTrip is that of http.RoundTripper.
func (a *attempts) RoundTrip(out *http.Request) (*http.Response, error) {
	x := a.x
	way := x.service.transports.to(x.grpc, x.upgrade)
	for {
		res, err := way.RoundTrip(out)
		if isShortage(err) && a.bide(err) {
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
		x.take()
		x.service.metrics.retried.Inc()
		if out = a.reopen(out); out == nil {
			return nil, errGiven
		}
	}
}

// watch has the transport tell whether an attempt over HTTP/2 was sent. In HTTP/1 only
// what was never sent is repeated by the transport.
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

// bideFor is the time between two attempts to open a connection that this host
// refused.
const bideFor = 50 * time.Millisecond

// bide waits until this host may have room for a connection; false when the request
// may wait no longer. The replica's slot is kept: it is not the replica that is short.
func (a *attempts) bide(err error) bool {
	x := a.x
	x.server.short.note("replica", err)
	if time.Now().Add(bideFor).After(x.request.Expire) {
		return false
	}
	pause(x.ctx, bideFor)
	return x.ctx.Err() == nil
}

// reopen copies a request for another attempt: the transport may still hold the
// first one. It is nil where the body cannot be given again.
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

// retry decides whether an attempt is repeated, and what is told of its replica: what
// is harmless to repeat, at most Retries times, except that where no connection came
// about the queue ejects the replica at once and the request waits on as if it had not
// been there. Each only while the body can be sent again from its first byte.
func (a *attempts) retry(res *http.Response, err error) (dispatch.Verdict, time.Duration, bool) {
	x := a.x
	verdict, pause, harmless := a.harmless(res, err)
	retries := x.service.config.Upstream.Retries
	switch {
	case !harmless:
		return 0, 0, false
	case verdict == dispatch.Unreachable && retries > 0:
		a.unreached++
	case a.n-a.unreached > retries:
		return 0, 0, false
	}
	return verdict, pause, x.body == nil || x.body.Open() != nil
}

// harmless reports whether it is harmless to repeat an attempt, and what is told of its
// replica.
//
// No connection: nothing was sent. 503 with Retry-After: the replica says that it did
// not act, and over HTTP/2 it may say that it did not begin. A broken exchange before
// any answer: only where repeating is harmless by the method's definition or the
// client's word (Idempotency-Key).
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
		return dispatch.Busy, 0, true // it goes away, or has no room for another stream
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

// retryAfter reads how long a replica that refuses asks to be left alone.
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
