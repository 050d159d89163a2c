package gateway

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/join"
)

// exchange handles one request from its arrival to the end of its answer.
type exchange struct {
	server        *Server
	plan          *plan
	service       *service
	pass          line.Pass
	request       dispatch.Request
	writer        progress
	answer        answer
	informational informational
	upload
	asked   string       // model in the body, if a route depends on it
	reading *reading     // nil if work is not counted in tokens
	joined  *join.Answer // nil if the answer is passed on as it arrives

	in       *http.Request
	ctx      context.Context // the request's context, with its deadline
	cancel   context.CancelFunc
	upgrade  bool // to a WebSocket
	arrived  bool // the request cannot move to another service any more
	began    time.Time
	entered  time.Time // when the request first entered a line
	waited   time.Duration
	servedBy *classMetrics // class of the replica whose answer was complete
	held     time.Duration // how long that answer held its slot
	class    string        // class of the last replica
	replica  string
	attempts attempts
	outcome  outcome
	ended    bool // the slot was given back to the line
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
		// Make the client open another connection, which the load balancer sends to another gateway.
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
	x.recordStart()
	x.forward()
}

// admit finds a service for the request and waits for a slot. It returns false if it answered the
// request itself.
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

// arrive releases the plan's other services, to which the request could move until its own service
// gave it a slot and a fallback was ruled out.
func (x *exchange) arrive() {
	if !x.arrived {
		x.arrived = true
		x.plan.arriving.Add(-1)
	}
}

// recordStart records that the exchange was given a slot.
func (x *exchange) recordStart() {
	x.waited += x.pass.Waited()
	x.class, x.replica = x.pass.Endpoint.Class, x.pass.Endpoint.ID
	x.attempts.begin()
	x.ended = false
}

// release gives the slot back to the line with a verdict about the replica, once per slot.
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

// forward sends the request to the replica and its answer to the client.
func (x *exchange) forward() {
	x.answer.x = x
	if x.body != nil && !x.body.Whole() {
		if x.in.ProtoMajor == 1 {
			// A replica may answer while it is still reading. Without this, the server would read the
			// rest of the request's body first.
			http.NewResponseController(x.writer.ResponseWriter).EnableFullDuplex()
		}
		defer x.body.Stop(x.client.abort)
	}
	if x.upgrade = switches(x.in); !x.upgrade {
		x.carry()
		return
	}
	x.arrive() // an upgrade has no fallback
	// The reverse proxy connects the two connections; attempts is its transport.
	proxy := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      &x.attempts,
		ModifyResponse: x.answered,
		ErrorHandler:   x.failed,
		BufferPool:     x.server.buffers,
		ErrorLog:       x.server.discardLog,
	}
	proxy.ServeHTTP(&x.writer, x.in.WithContext(x.ctx))
}

func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	out := p.Out
	out.URL.Scheme = x.service.transports.scheme
	out.URL.Host = x.pass.Endpoint.Address
	out.URL.RawQuery = p.In.URL.RawQuery // unchanged
	if prior := p.In.Header["X-Forwarded-For"]; prior != nil {
		out.Header["X-Forwarded-For"] = prior
	}
	p.SetXForwarded()
	if x.trusted() {
		for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
			if values := p.In.Header[name]; len(values) > 0 {
				out.Header[name] = values
			}
		}
	}
	if out.Body != nil {
		out.Body = x.body.Open()
		// The server sets the trailer of the original request once it has read the body; that of the
		// clone would stay empty.
		out.Trailer = p.In.Trailer
	}
}

// answered prepares the replica's answer before it is passed on.
func (x *exchange) answered(r *http.Response) error {
	if x.body != nil && x.in.ProtoMajor == 1 && !x.body.Ended() {
		// The rest of this body must never be parsed as another request.
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

// end runs when the handler returns, or panics because an answer broke off.
func (x *exchange) end() {
	// A request that still has its slot was broken off, or was an upgraded connection, whose duration
	// says nothing about the replica's speed.
	x.release(dispatch.Neutral, 0)
	if x.outcome == served && x.answer.body != nil && x.answer.err != io.EOF {
		switch {
		case x.in.Context().Err() != nil || x.answer.err == nil:
			x.cancelled(leftServing)
		case x.overdue():
			x.outcome = overdue
		default:
			x.outcome = broken
		}
	}
	if x.in.ProtoMajor == 1 && x.in.ContentLength != 0 && (x.body == nil || !x.body.Ended()) {
		// The server reads some of the rest of the body. Do not let it wait for a client that sends
		// nothing.
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

// name returns the name of the service, "" while it is unknown.
func (x *exchange) name() string {
	if x.service == nil {
		return ""
	}
	return x.service.name
}

func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && speaksGRPC(r.Header)
}
