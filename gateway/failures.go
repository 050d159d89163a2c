package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"syscall"
	"time"

	"aliquot.example/gateway/intake"
	"aliquot.example/gateway/line"
	"aliquot.example/gateway/wire"
	"aliquot.example/internal/dispatch"
)

// refusals are the outcomes of requests that a queue refuses.
var refusals = map[dispatch.Refusal]outcome{
	dispatch.QueueFull: queueFull, dispatch.TenantFull: tenantFull, dispatch.TooLate: tooLate,
	dispatch.NoSuchClass: noClass,
}

// refuse answers a request that goes to no service. It always returns false.
func (x *exchange) refuse(o outcome, text string) bool {
	x.outcome = o
	refuse(&x.writer, x.in, o, text, 0)
	return false
}

// failed answers a request for which no replica has an answer.
func (x *exchange) failed(w http.ResponseWriter, r *http.Request, err error) {
	var unplaced *unplacedError
	switch {
	case errors.As(err, &unplaced):
		if verdictOf(unplaced.last) == dispatch.Unreachable && errors.Is(unplaced.error, line.ErrExpired) {
			err = unplaced.last
			break // report why it waited
		}
		x.unplaced(unplaced.error)
		return
	case x.body != nil && x.body.Err() != nil:
		// Check this before the context, which the server cancels if it cannot read the body.
		x.release(dispatch.Neutral, 0)
		x.refuseBody(x.body.Err())
		return
	case x.in.Context().Err() != nil:
		x.release(x.abandoned(), 0)
		x.cancelled(leftServing)
		return
	case x.overdue():
		x.release(x.abandoned(), 0)
		x.outcome = overdue
		refuse(&x.writer, x.in, overdue, "", 0)
		return
	case errors.Is(err, wire.ErrRequest):
		x.release(dispatch.Neutral, 0)
		x.outcome = malformed
		refuse(&x.writer, x.in, malformed, err.Error(), 0)
		return
	case isShortage(err):
		x.release(dispatch.Neutral, 0)
		x.outcome = shortage
		refuse(&x.writer, x.in, shortage, "", time.Second)
		return
	}
	x.release(verdictOf(err), 0)
	x.outcome = broken
	var dial dialError
	if errors.As(err, &dial) {
		x.outcome = unreachable
	} else if isTimeout(err) {
		x.outcome = timedOut
	}
	x.server.log.Warn("request failed: no answer from a replica", "service", x.service.name, "replica", x.replica,
		"attempts", x.attempts.n, "error", err)
	refuse(&x.writer, x.in, x.outcome, "", 0)
}

// refuseBody answers a client whose body could not be received.
func (x *exchange) refuseBody(err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		x.outcome = tooLarge
	case errors.Is(err, intake.ErrFull):
		x.server.log.Warn("request refused: no space for its body", "service", x.name(), "error", err)
		x.outcome = bodiesFull
		refuse(&x.writer, x.in, bodiesFull, "", time.Second)
		return
	case isTimeout(err):
		x.outcome = bodyTimeout
	case x.in.Context().Err() != nil, hungUp(err):
		if x.attempts.n == 0 {
			x.cancelled(leftWaiting)
		} else {
			x.cancelled(leftServing)
		}
		return
	default:
		x.outcome = malformed
	}
	refuse(&x.writer, x.in, x.outcome, "cannot receive the request body", 0)
}

// unplaced answers a request that got no slot.
func (x *exchange) unplaced(err error) {
	var refused *line.Refused
	switch {
	case errors.As(err, &refused):
		x.outcome = refusals[refused.Why]
		x.reading.turnedAway()
		refuse(&x.writer, x.in, x.outcome, err.Error(), max(refused.After, time.Second))
	case errors.Is(err, errOverdue):
		x.outcome = overdue
		refuse(&x.writer, x.in, overdue, "", 0)
	case errors.Is(err, line.ErrExpired):
		x.outcome = expired
		refuse(&x.writer, x.in, expired, err.Error(), time.Second)
	default:
		x.cancelled(leftWaiting)
	}
}

// cancelled ends a request whose client left, or which the gateway's shutdown cut off.
func (x *exchange) cancelled(o outcome) {
	x.outcome = o
	if errors.Is(context.Cause(x.in.Context()), errShutDown) {
		x.outcome = shutDown
		if !x.writer.started() {
			refuse(&x.writer, x.in, shutDown, "", time.Second)
		}
	} else if !x.writer.started() {
		// Nobody reads this, but without it the server would record 200.
		refuse(&x.writer, x.in, o, "the client left", 0)
	}
}

// hungUp reports whether receiving a body failed because the client closed the connection.
func hungUp(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
