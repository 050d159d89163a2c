package gateway

import (
	"net/http"
	"slices"
	"time"

	"aliquot.example/gateway/recent"
	"aliquot.example/internal/api"
)

// remembered is the history of a service. It survives reloads in which the service stays.
type remembered struct {
	requests  recent.Requests
	latencies latencies
}

// count adds a served request to the latencies of its service.
func (x *exchange) count(status int, took time.Duration, now time.Time) {
	if x.outcome != served || status >= http.StatusBadRequest || x.upgrade {
		return
	}
	ttft, tpot := time.Duration(-1), time.Duration(-1)
	if x.reading != nil {
		if d, ok := x.reading.ttft(); ok {
			ttft = d
		}
		if d, ok := x.reading.tpot(); ok {
			tpot = d
		}
	}
	x.service.remembered.latencies.add(now, x.class, took, ttft, tpot)
}

// remember stores a finished request if it failed or was slow.
func (x *exchange) remember(status int, took time.Duration, now time.Time) {
	x.count(status, took, now)
	failed := x.outcome != served && x.outcome != listed || status >= http.StatusInternalServerError
	ended := now.Unix() // not began+took: the clock may have been set meanwhile
	if !failed && !x.service.remembered.requests.Slow(ended, millis(took)) {
		return
	}
	q := api.Request{
		Service: x.service.name, Began: x.began, Outcome: x.outcome.String(), Status: status,
		Tenant: x.plan.tenants.known(x.request.Tenant), Class: x.class, Replica: x.replica, Attempts: x.attempts.n,
	}
	q.Priority = x.plan.priorityName(x.request.Priority)
	if x.reading != nil && x.reading.answered {
		u := x.reading.used()
		output, _ := x.reading.output()
		q.Prompt, q.Output = max(u.Prompt, 0), max(output, 0)
	}
	x.spent(&q, took)
	x.service.remembered.requests.Add(ended, &q, failed)
}

// spent sets the parts of a request's duration.
func (x *exchange) spent(q *api.Request, took time.Duration) {
	end := x.began.Add(took)
	entered, started, first := x.entered, x.attempts.began, x.writer.first
	if entered.IsZero() {
		entered = end // the gateway answered it before it waited
	}
	if started.IsZero() {
		started = end
	}
	if first.IsZero() || first.Before(started) {
		first = end
	}
	waited := min(x.waited, started.Sub(entered))
	if x.attempts.n == 0 {
		waited = end.Sub(entered)
	}
	q.Total = millis(took)
	q.Received = millis(entered.Sub(x.began))
	q.Waited = millis(waited)
	q.Retried = millis(started.Sub(entered) - waited)
	q.Upstream = millis(first.Sub(started))
	q.Answer = millis(end.Sub(first))
}

// serveRequests responds with the stored requests of one service, or of all.
func (s *Server) serveRequests(w http.ResponseWriter, r *http.Request) {
	services := s.plan.Load().services
	if name := r.FormValue("service"); name != "" {
		v := s.known(w, name)
		if v == nil {
			return
		}
		services = []*service{v}
	}
	out := api.Requests{Now: time.Now(), Slow: []api.Request{}, Failed: []api.Request{}}
	for _, v := range services {
		slow, failed := v.remembered.requests.List(out.Now.Unix())
		out.Slow, out.Failed = append(out.Slow, slow...), append(out.Failed, failed...)
	}
	newest := func(a, b api.Request) int { return b.Began.Compare(a.Began) }
	slices.SortStableFunc(out.Slow, newest)
	slices.SortStableFunc(out.Failed, newest)
	writeJSON(w, out)
}
