package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"syscall"
	"time"

	"aliquot/gateway/intake"
	"aliquot/gateway/line"
	"aliquot/gateway/wire"
	"aliquot/internal/dispatch"
	"aliquot/internal/join"
)

// exchange is one request's way through the gateway.
type exchange struct {
	server  *Server
	plan    *plan
	service *service
	pass    line.Pass
	request dispatch.Request
	writer  progress
	answer  answer
	early   early
	upload
	asked   string       // the model that the body names, where a route depends on it
	reading *reading     // nil where work is not counted in tokens
	joined  *join.Answer // nil where the answer is passed on as it comes

	in       *http.Request
	ctx      context.Context // the request's, with its deadline
	cancel   context.CancelFunc
	upgrade  bool // to a WebSocket
	arrived  bool // no service but its own may be the request's
	began    time.Time
	entered  time.Time // the line, for the first time
	waited   time.Duration
	servedBy *classMetrics // of the replica whose answer was complete
	held     time.Duration // its slot, for that answer
	class    string        // of the replica that served last
	replica  string
	attempts attempts
	outcome  outcome
	ended    bool // the line has its slot back
}

// ServeHTTP serves one request of the public listener.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.inflight.Add(1)
	defer s.inflight.Add(-1)
	x := &exchange{server: s, in: r, began: time.Now()}
	x.attempts.x = x
	x.writer = progress{ResponseWriter: w}
	if r.ProtoMajor == 2 {
		x.writer.limit = s.config.Listen.WriteTimeout
	}
	defer x.end()
	defer s.stream(r)()
	if s.leaving.Load() {
		// The client is asked to come back on another connection, which the load
		// balancer gives to another gateway.
		w.Header().Set("Connection", "close")
	}
	admitted := x.admit()
	defer x.arrive()
	if !admitted {
		return
	}
	x.ctx = r.Context()
	if !x.request.Deadline.IsZero() {
		x.ctx, x.cancel = context.WithDeadlineCause(x.ctx, x.request.Deadline, errOverdue)
	}
	x.take()
	x.forward()
}

// admit finds a service and a slot of it for the request; false when the request was
// answered instead.
func (x *exchange) admit() bool {
	x.plan = x.server.join()
	if !x.prepare() {
		return false
	}
	if err := x.enter(); err != nil {
		x.unplaced(err)
		return false
	}
	if x.service.config.Fallback == "" {
		x.arrive()
	}
	return true
}

// arrive gives up the claim to any other service of the plan, which a request has until
// its own has given it a slot, or its fallback is out of the question.
func (x *exchange) arrive() {
	if !x.arrived {
		x.arrived = true
		x.plan.arriving.Add(-1)
	}
}

// take records that the exchange was given a slot.
func (x *exchange) take() {
	x.waited += x.pass.Waited()
	x.class, x.replica = x.pass.Endpoint.Class, x.pass.Endpoint.ID
	x.attempts.begin()
	x.ended = false
}

// release gives the slot back; what is told of the replica is told once.
func (x *exchange) release(o dispatch.Verdict, pause time.Duration) {
	if x.ended || x.pass.Endpoint == nil {
		return
	}
	x.ended = true
	class := classMetricsOf(x.pass.Endpoint)
	if held := x.service.line.Leave(&x.pass, o, pause); o == dispatch.Served {
		x.servedBy, x.held = class, held
	}
}

// forward has the request served.
func (x *exchange) forward() {
	x.answer.x = x
	if x.body != nil && !x.body.Whole() {
		if x.in.ProtoMajor == 1 {
			// A replica may answer while it still reads. Without this the server
			// would first swallow the rest of the request's body.
			http.NewResponseController(x.writer.ResponseWriter).EnableFullDuplex()
		}
		defer x.body.Stop(x.client.abort)
	}
	if x.upgrade = switches(x.in); !x.upgrade {
		x.carry()
		return
	}
	x.arrive() // an upgrade has no fallback
	// The handover of two connections is the reverse proxy's; x is its transport.
	proxy := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      &x.attempts,
		ModifyResponse: x.answered,
		ErrorHandler:   x.failed,
		BufferPool:     x.server.buffers,
		ErrorLog:       x.server.quiet,
	}
	proxy.ServeHTTP(&x.writer, x.in.WithContext(x.ctx))
}

func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	out := p.Out
	out.URL.Scheme = x.service.transports.scheme
	out.URL.Host = x.pass.Endpoint.Address
	out.URL.RawQuery = p.In.URL.RawQuery // passed on as it came
	if prior := p.In.Header["X-Forwarded-For"]; prior != nil {
		out.Header["X-Forwarded-For"] = prior
	}
	p.SetXForwarded()
	if x.trusted() {
		for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
			if said := p.In.Header[name]; len(said) > 0 {
				out.Header[name] = said
			}
		}
	}
	if out.Body != nil {
		out.Body = x.body.Open()
		// The clone's trailer would stay empty: the server fills in the original's
		// when it has read the body.
		out.Trailer = p.In.Trailer
	}
}

// answered sees the replica's answer before it is passed on.
func (x *exchange) answered(r *http.Response) error {
	if x.body != nil && x.in.ProtoMajor == 1 && !x.body.Ended() {
		// What the client still sends of this body must never be taken for a
		// request of its own.
		x.writer.Header().Set("Connection", "close")
	}
	if r.StatusCode == http.StatusSwitchingProtocols {
		return nil // the connection itself is handed over
	}
	if x.body != nil {
		x.body.Answered()
	}
	x.answer.body, x.answer.from = r.Body, r
	if x.reading != nil {
		x.reading.listen(x)
	}
	if x.edits.joins && isStream(r) {
		x.joined = &join.Answer{}
	}
	r.Body = &x.answer
	return nil
}

// failed answers when no replica did.
func (x *exchange) failed(w http.ResponseWriter, r *http.Request, err error) {
	var unplaced *unplacedError
	switch {
	case errors.As(err, &unplaced):
		if verdictOf(unplaced.last) == dispatch.Unreachable && errors.Is(unplaced.error, line.ErrExpired) {
			err = unplaced.last
			break // it waited because of that
		}
		x.unplaced(unplaced.error)
		return
	case x.body != nil && x.body.Err() != nil:
		// Before the context is looked at: the server ends it when it cannot read
		// the body.
		x.release(dispatch.Neutral, 0)
		x.refuseBody(x.body.Err())
		return
	case x.in.Context().Err() != nil:
		x.release(x.abandoned(), 0)
		x.gone(leftServing)
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
	x.server.log.Warn("no answer from a replica", "service", x.service.name, "replica", x.replica, "attempts", x.attempts.n, "error", err)
	refuse(&x.writer, x.in, x.outcome, "", 0)
}

// refuseBody answers a client whose body could not be received.
func (x *exchange) refuseBody(err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		x.outcome = tooLarge
	case errors.Is(err, intake.ErrFull):
		x.server.log.Warn("a request body finds no room", "service", x.name(), "error", err)
		x.outcome = bodiesFull
		refuse(&x.writer, x.in, bodiesFull, "", time.Second)
		return
	case isTimeout(err):
		x.outcome = bodyTimeout
	case x.in.Context().Err() != nil, hungUp(err):
		if x.attempts.n == 0 {
			x.gone(leftWaiting)
		} else {
			x.gone(leftServing)
		}
		return
	default:
		x.outcome = malformed
	}
	refuse(&x.writer, x.in, x.outcome, "the request body could not be received", 0)
}

// unplaced answers a request that got no slot.
func (x *exchange) unplaced(err error) {
	var refused *line.Refused
	switch {
	case errors.As(err, &refused):
		x.outcome = map[dispatch.Refusal]outcome{
			dispatch.QueueFull: queueFull, dispatch.TenantFull: tenantFull,
			dispatch.TooLate: tooLate, dispatch.NoSuchClass: noClass,
		}[refused.Why]
		refuse(&x.writer, x.in, x.outcome, err.Error(), max(refused.After, time.Second))
	case errors.Is(err, errOverdue):
		x.outcome = overdue
		refuse(&x.writer, x.in, overdue, "", 0)
	case errors.Is(err, line.ErrExpired):
		x.outcome = expired
		refuse(&x.writer, x.in, expired, err.Error(), time.Second)
	default:
		x.gone(leftWaiting)
	}
}

// gone ends a request whose client left, or which the gateway's own end cut off.
func (x *exchange) gone(o outcome) {
	x.outcome = o
	if errors.Is(context.Cause(x.in.Context()), errShutDown) {
		x.outcome = shutDown
		if !x.writer.started() {
			refuse(&x.writer, x.in, shutDown, "", time.Second)
		}
	} else if !x.writer.started() {
		// Nobody reads it, but the server would make it a 200.
		refuse(&x.writer, x.in, o, "the client left", 0)
	}
}

// end runs when the handler is left, also by the panic that ends an answer which
// broke off.
func (x *exchange) end() {
	// What still holds its slot here was broken off, or is an upgraded connection,
	// whose length says nothing of the replica's speed.
	x.release(dispatch.Neutral, 0)
	if x.outcome == served && x.answer.body != nil && x.answer.err != io.EOF {
		switch {
		case x.in.Context().Err() != nil || x.answer.err == nil:
			x.gone(leftServing)
		case x.overdue():
			x.outcome = overdue
		default:
			x.outcome = broken
		}
	}
	if x.in.ProtoMajor == 1 && x.in.ContentLength != 0 && (x.body == nil || !x.body.Ended()) {
		// The server reads some of the rest; a client that sends none must not keep
		// it waiting.
		http.NewResponseController(x.writer.ResponseWriter).SetReadDeadline(time.Now().Add(time.Second))
	}
	x.writer.last()
	if x.body != nil {
		x.body.Free()
	}
	if x.cancel != nil {
		x.cancel()
	}
	if x.service != nil {
		x.service.requests.Add(-1)
	}
	x.record()
}

// hungUp reports whether an error of receiving a body is that of a connection that
// has ended.
func hungUp(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// name is that of the service, "" while it is not known.
func (x *exchange) name() string {
	if x.service == nil {
		return ""
	}
	return x.service.name
}

func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && speaksGRPC(r.Header)
}
