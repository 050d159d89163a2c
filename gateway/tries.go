package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"aliquot/gateway/wire"
	"aliquot/internal/dispatch"
)

// unplacedError wraps why a request that was to be tried again got no slot.
type unplacedError struct {
	error
	// last is how the attempt before ended.
	last error
}

// attempts is the transport of an exchange: it tries the request on another replica
// as long as the first cannot have acted on it.
type attempts struct{ *exchange }

func (x attempts) RoundTrip(out *http.Request) (*http.Response, error) {
	way := x.service.transports.to(x.grpc, x.upgrade)
	for {
		res, err := way.RoundTrip(out)
		if isShortage(err) && x.bide(err) {
			if out = x.reopen(out); out == nil {
				return nil, err
			}
			continue
		}
		verdict, pause, again := x.retry(res, err)
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
		if out = x.reopen(out); out == nil {
			return nil, errGiven
		}
	}
}

// bideFor is the time between two attempts to open a connection that this host
// refused.
const bideFor = 50 * time.Millisecond

// bide waits until this host may have room for a connection; false when the request
// may wait no longer. The replica's slot is kept: it is not the replica that is short.
func (x *exchange) bide(err error) bool {
	x.server.short.note("replica", err)
	if time.Now().Add(bideFor).After(x.request.Expire) {
		return false
	}
	pause(x.ctx, bideFor)
	return x.ctx.Err() == nil
}

// reopen copies a request for another attempt: the transport may still hold the
// first one. It is nil where the body cannot be given again.
func (x *exchange) reopen(r *http.Request) *http.Request {
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
func (x *exchange) retry(res *http.Response, err error) (dispatch.Outcome, time.Duration, bool) {
	verdict, pause, harmless := x.harmless(res, err)
	retries := x.service.config.Upstream.Retries
	switch {
	case !harmless:
		return 0, 0, false
	case verdict == dispatch.Unreachable && retries > 0:
		x.unreached++
	case x.attempts-x.unreached > retries:
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
func (x *exchange) harmless(res *http.Response, err error) (verdict dispatch.Outcome, pause time.Duration, ok bool) {
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

func verdictOf(err error) dispatch.Outcome {
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
