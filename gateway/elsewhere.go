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

// mostFallbacks bounds how often a request goes on to another service.
const mostFallbacks = 4

// split returns the service that a request to v goes to: v, or at random one that
// takes a part of its requests.
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

// enter waits for a replica, and at the service's fallback where the service itself
// does not take the request.
func (x *exchange) enter() error {
	began := time.Now()
	if x.entered.IsZero() {
		x.entered = began
	}
	err := x.service.line.Enter(x.in.Context(), &x.pass, x.request)
	for range mostFallbacks {
		waited := time.Since(began)
		if err == nil || !turnsAway(err) || !x.fallBack() {
			return err
		}
		x.waited += waited // the next line counts from its own beginning
		began = time.Now()
		err = x.service.line.Enter(x.in.Context(), &x.pass, x.request)
	}
	return err
}

// orFallback returns the answer to a request, or where the service did not serve it and
// it is harmless to repeat that of the service's fallback. The client has seen nothing
// of an answer by then.
func (x *exchange) orFallback(res *http.Response, err error) (*http.Response, error) {
	for range mostFallbacks {
		verdict, pause, ok := x.unserved(res, err)
		if !ok {
			break
		}
		x.release(verdict, pause)
		x.attempts.unreached = x.attempts.n // the fallback has retries of its own
		if !x.fallBack() {
			break // and the client gets the answer that there is
		}
		failure := err
		if res != nil {
			res.Body.Close()
			failure = errBusy
		}
		if err := x.enter(); err != nil {
			return nil, &unplacedError{err, failure}
		}
		x.take()
		res, err = x.attempts.RoundTrip(x.outbound())
	}
	return res, err
}

// errBusy is how an attempt ended that its replica answered with 503 and Retry-After.
var errBusy = errors.New("the replica refused the request for now")

// unserved reports whether a request may go on to the service's fallback after its
// attempts failed, and what is told of the last one's replica.
func (x *exchange) unserved(res *http.Response, err error) (verdict dispatch.Verdict, pause time.Duration, ok bool) {
	c := &x.service.config
	switch {
	case c.Fallback == "", c.Upstream.Retries == 0, x.ctx.Err() != nil, x.late():
		return 0, 0, false
	case x.body != nil && (!x.taken || x.body.Open() == nil):
		return 0, 0, false
	}
	var unplaced *unplacedError
	if errors.As(err, &unplaced) {
		return dispatch.Neutral, 0, turnsAway(unplaced.error)
	}
	return x.attempts.harmless(res, err)
}

// turnsAway reports whether a service is too busy or has no replica for a request.
// A tenant's own limits are no reason to let it in elsewhere.
func turnsAway(err error) bool {
	var refused *line.Refused
	if errors.As(err, &refused) {
		return fallsBack[refused.Why]
	}
	return errors.Is(err, line.ErrExpired)
}

// fallsBack are the refusals that say that the service is too busy or not there.
var fallsBack = map[dispatch.Refusal]bool{dispatch.QueueFull: true, dispatch.TooLate: true, dispatch.NoSuchClass: true}

// fallBack turns the request to the service's fallback, if there is one.
func (x *exchange) fallBack() bool {
	from := x.service
	if from.config.Fallback == "" || x.late() {
		return false
	}
	to := x.plan.find(from.config.Fallback)
	if !to.config.Upstream.Stream {
		if x.takeIn(); x.failure != nil {
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
	before.turnedAway() // it counts where it waits
	if before != nil && x.reading != nil {
		// The client has waited since then, and its tenant's tokens are taken.
		x.reading.asked, x.reading.taken = before.asked, before.taken
	}
	x.server.metrics.moved.WithLabelValues(from.name, to.name).Inc()
	return true
}

// late reports whether the request's own deadline has passed.
func (x *exchange) late() bool {
	return !x.request.Deadline.IsZero() && !time.Now().Before(x.request.Deadline)
}
