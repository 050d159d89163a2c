package gateway

import (
	"net/http"
	"time"

	"aliquot.example/gateway/conn"
	"aliquot.example/gateway/match"
	"aliquot.example/internal/dispatch"
)

// prepare finds the service and prepares the request for its queue. It returns false if it answered
// the request itself.
func (x *exchange) prepare() bool {
	s, r := x.server, x.in
	if o, text := improper(r); text != "" {
		return x.refuse(o, text)
	}
	if x.listModels() {
		return false
	}
	if r.ContentLength > s.config.Listen.MaxBodyBytes {
		return x.refuse(tooLarge, "")
	}
	x.upload = s.upload(x.writer.ResponseWriter, r)
	at := x.plan.routes.Service(r, x.model)
	if at >= 0 {
		x.service = x.plan.split(x.plan.services[at])
		x.service.requests.Add(1)
		if !x.service.config.Upstream.Stream {
			x.receive()
		}
	}
	if x.failure != nil {
		x.refuseBody(x.failure)
		return false
	}
	if at < 0 {
		return x.unmatched()
	}
	facts, err := match.FactsOf(r)
	if err != nil {
		return x.refuse(malformed, err.Error())
	}
	if err := x.ask(x.service, &facts); err != nil {
		return x.refuse(malformed, err.Error())
	}
	return x.charge()
}

func (x *exchange) model() string {
	x.receive()
	if x.body == nil || x.grpc || x.failure != nil {
		return ""
	}
	x.asked = match.Model(x.body.Kept(), x.in.Header)
	return x.asked
}

// improper returns what is wrong with a request that a proxy must not pass on, "" for other requests.
func improper(r *http.Request) (outcome, string) {
	switch {
	case r.Method == http.MethodConnect:
		return malformed, "CONNECT is not supported: this is not a forward proxy"
	case r.Host == "" && r.ProtoMajor == 1 && r.ProtoMinor == 1:
		return malformed, "the request has no Host header"
	case match.Climbs(r.URL.Path):
		return malformed, "the path has a \"..\" segment"
	case conn.Smuggles(r):
		return malformed, "the request has both Transfer-Encoding and Content-Length, or Transfer-Encoding in HTTP/1.0"
	}
	return served, ""
}

// ask builds the request for a service's queue. If the service cannot take the request, ask returns
// an error for the client and changes nothing.
func (x *exchange) ask(v *service, f *match.Facts) error {
	x.undoCoding(v)
	tenant := x.plan.tenants.of(x.in.Header)
	changed, err := x.editsOf(v, tenant)
	if err != nil {
		return err
	}
	x.service, x.edits, x.reading = v, changed, nil
	c := &v.config
	declares := x.plan.tenants.declares(tenant)
	x.read(f, tenant, declares)
	if !declares {
		f.Cost = -1 // otherwise clients could buy turns, or distort speeds, with a header
	}
	x.request = dispatch.Request{
		Tenant:    tenant,
		Priority:  x.plan.tenants.priority(tenant, f.Priority, x.plan.config.Priorities, c.Queue.DefaultPriority),
		Placement: match.Placement(c.Rules, f),
		Cost:      max(0, f.Cost),
		Expire:    time.Now().Add(c.Queue.MaxWait),
	}
	if x.reading != nil {
		x.reading.ask(&x.request)
	}
	if f.Timeout > 0 {
		x.request.Deadline = x.began.Add(f.Timeout)
		if x.request.Deadline.Before(x.request.Expire) {
			x.request.Expire = x.request.Deadline
		}
	}
	return nil
}
