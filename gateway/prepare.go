package gateway

import (
	"net/http"

	"aliquot/gateway/match"
	"aliquot/internal/dispatch"
)

// maxSniff bounds how much of a body is read and kept to find its model. OpenAI's
// clients send the messages before the model, so that a long prompt must fit.
const maxSniff = 1 << 20

// prepare finds the service and everything that the queue needs to know; false
// when the request was answered instead.
func (x *exchange) prepare() bool {
	s, r := x.server, x.in
	if o, text := improper(r); text != "" {
		return x.no(o, text)
	}
	if r.ContentLength > s.config.Listen.MaxBodyBytes {
		return x.no(tooLarge, "")
	}
	if r.ContentLength != 0 {
		x.body = match.NewBody(&slowBody{
			ReadCloser: http.MaxBytesReader(x.writer.ResponseWriter, r.Body, s.config.Listen.MaxBodyBytes),
			control:    http.NewResponseController(x.writer.ResponseWriter),
			limit:      s.config.Listen.BodyTimeout, began: x.began,
			floor: r.ContentLength > 0, each: r.ProtoMajor == 2,
		})
	}
	at := s.routes.Service(r, x.model)
	if x.body != nil && x.body.Err() != nil {
		x.refuseBody(x.body.Err())
		return false
	}
	if at < 0 {
		return x.no(unmatched, "")
	}
	x.service = s.services[at]
	facts, err := match.FactsOf(r)
	if err != nil {
		return x.no(malformed, err.Error())
	}
	x.grpc = isGRPC(r)
	x.ask(&facts)
	return true
}

func (x *exchange) no(o outcome, text string) bool {
	x.outcome = o
	refuse(&x.writer, x.in, o, text, 0)
	return false
}

func (x *exchange) model() string {
	if x.body == nil || !match.Sniffable(x.in) {
		return ""
	}
	return x.body.Model(maxSniff)
}

// improper tells what is wrong with a request that no proxy should pass on.
func improper(r *http.Request) (outcome, string) {
	switch {
	case r.Method == http.MethodConnect:
		return malformed, "CONNECT is not served: this is no forward proxy"
	case r.Host == "" && r.ProtoMajor == 1 && r.ProtoMinor == 1:
		return malformed, "the request names no host"
	case match.Climbs(r.URL.Path):
		return malformed, "the path has a \"..\" segment"
	case smuggles(r):
		return malformed, "the request has both Transfer-Encoding and Content-Length, or Transfer-Encoding in HTTP/1.0"
	}
	return served, ""
}

// ask turns what the request declares into a request to the queue.
func (x *exchange) ask(f *match.Facts) {
	c := &x.service.config
	tenant := x.server.tenants.of(x.in.Header)
	x.request = dispatch.Request{
		Tenant:    tenant,
		Priority:  x.server.tenants.priority(tenant, f.Priority, x.server.config.Priorities, c.Queue.DefaultPriority),
		Placement: match.Placement(c.Rules, f),
		Cost:      max(0, f.Cost),
		Expire:    x.began.Add(c.Queue.MaxWait),
	}
	if f.Timeout > 0 {
		x.request.Deadline = x.began.Add(f.Timeout)
		if x.request.Deadline.Before(x.request.Expire) {
			x.request.Expire = x.request.Deadline
		}
	}
}
