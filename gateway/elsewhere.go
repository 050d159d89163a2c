package gateway

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/gateway/match"
	"aliquot.example/internal/dispatch"
)

// maxFallbacks is the largest number of services to which a request falls back in turn.
const maxFallbacks = 4

// split returns the service for a request to v: v itself, or at random one of its splits.
func (p *plan) split(v *service) *service {
	if len(v.config.Splits) == 0 {
		return v
	}
	at := rand.Float64() * 100
	for _, s := range v.config.Splits {
		if at < s.Percent {
			return p.find(s.To)
		}
		at -= s.Percent
	}
	return v
}

// enter waits for a replica of the service, or of its fallback if the service turns the request away.
func (x *exchange) enter() error {
	began := time.Now()
	if x.entered.IsZero() {
		x.entered = began
	}
	err := x.service.line.Enter(x.in.Context(), &x.pass, x.request)
	for range maxFallbacks {
		waited := time.Since(began)
		if err == nil || !turnsAway(err) || !x.fallBack() {
			return err
		}
		x.waited += waited // the next line counts from its own start
		began = time.Now()
		err = x.service.line.Enter(x.in.Context(), &x.pass, x.request)
	}
	return err
}

// orFallback returns the answer to a request. If the service did not serve the request and
// repeating it is harmless, it returns the fallback's answer. The client has not received anything
// yet.
func (x *exchange) orFallback(res *http.Response, err error) (*http.Response, error) {
	for range maxFallbacks {
		verdict, pause, ok := x.unserved(res, err)
		if !ok {
			break
		}
		x.release(verdict, pause)
		x.attempts.connectFailed = x.attempts.n // the fallback has its own retries
		if !x.fallBack() {
			break // the client gets the answer of the service
		}
		failure := err
		if res != nil {
			res.Body.Close()
			failure = errBusy
		}
		if err := x.enter(); err != nil {
			return nil, &unplacedError{err, failure}
		}
		x.recordStart()
		res, err = x.attempts.RoundTrip(x.outbound())
	}
	return res, err
}

// errBusy is the error of an attempt that the replica answered with 503 and Retry-After.
var errBusy = errors.New("the replica is busy and refused the request")

// unserved reports whether a request may fall back after its attempts failed, and returns the
// verdict about the last replica.
func (x *exchange) unserved(res *http.Response, err error) (verdict dispatch.Verdict, pause time.Duration, ok bool) {
	c := &x.service.config
	switch {
	case c.Fallback == "", c.Upstream.Retries == 0, x.ctx.Err() != nil, x.pastDeadline():
		return 0, 0, false
	case x.body != nil && (!x.complete || x.body.Open() == nil):
		return 0, 0, false
	}
	var unplaced *unplacedError
	if errors.As(err, &unplaced) {
		return dispatch.Neutral, 0, turnsAway(unplaced.error)
	}
	return x.attempts.harmless(res, err)
}

// turnsAway reports whether a service is too busy or has no replica for a request. A tenant's
// limits do not count, because they apply to the fallback too.
func turnsAway(err error) bool {
	var refused *line.Refused
	if errors.As(err, &refused) {
		return fallsBack[refused.Why]
	}
	return errors.Is(err, line.ErrExpired)
}

// fallsBack are the refusals after which a request falls back.
var fallsBack = map[dispatch.Refusal]bool{dispatch.QueueFull: true, dispatch.TooLate: true, dispatch.NoSuchClass: true}

// fallBack moves the request to the service's fallback, if there is one.
func (x *exchange) fallBack() bool {
	from := x.service
	if from.config.Fallback == "" || x.pastDeadline() {
		return false
	}
	to := x.plan.find(from.config.Fallback)
	if !to.config.Upstream.Stream {
		if x.receive(); x.failure != nil {
			return false
		}
	}
	facts, err := match.FactsOf(x.in)
	if err != nil {
		return false
	}
	before := x.reading
	if x.ask(to, &facts) != nil {
		return false
	}
	to.requests.Add(1)
	from.requests.Add(-1)
	before.turnedAway() // it counts only at the new service
	if before != nil && x.reading != nil {
		// Keep the start of the client's wait, and the tokens already charged to its tenant.
		x.reading.asked, x.reading.charged = before.asked, before.charged
	}
	x.server.metrics.moved.WithLabelValues(from.name, to.name).Inc()
	return true
}

// pastDeadline reports whether the request's own deadline has passed.
func (x *exchange) pastDeadline() bool {
	return !x.request.Deadline.IsZero() && !time.Now().Before(x.request.Deadline)
}
