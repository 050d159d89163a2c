package router

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot.example/internal/weigh"
)

// The states of a service.
const (
	StateWaiting = "waiting" // nothing is decided yet, or this router is not certain to lead
	StateRouted  = "routed"  // the entries match the plan
	StateHeld    = "held"    // a change is too small or too early to be written
	StateBlocked = "blocked" // hand-written entries prevent the router's
	StateRefused = "refused" // the planned entries failed the router's own check; nothing was written
	StateError   = "error"   // Consul refused a request or cannot be reached
	StateRemoved = "removed" // the service opted out or is gone; no entry of ours is left
)

// Status is the status of a service on the admin listener.
type Status struct {
	Service string   `json:"service"`
	State   string   `json:"state"`
	Reason  string   `json:"reason,omitempty"`
	Blocked []string `json:"blocked,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Refused lists the ignored instances, and why.
	Refused   []string      `json:"refused,omitempty"`
	Groups    []GroupStatus `json:"groups,omitempty"`
	LastWrite *time.Time    `json:"last_write,omitempty"`
}

// GroupStatus is one subset of a service.
type GroupStatus struct {
	Subset     string `json:"subset"`
	Registered int    `json:"registered"`
	Healthy    int    `json:"healthy"`
	// Slots is the number of requests that the healthy instances serve at once. Callers can use it as
	// their limit of requests in flight to the subset.
	Slots      int     `json:"slots"`
	Weight     float64 `json:"weight"`
	Source     string  `json:"source"`
	AgeSeconds float64 `json:"age_seconds,omitempty"`
	Confidence float64 `json:"confidence,omitempty"`
	// Tokens is the measured speed of one instance, in tokens per second.
	Tokens float64 `json:"tokens_per_second,omitempty"`
	Note   string  `json:"note,omitempty"`
	// Computed is the share according to the healthy instances, Written the share in Consul; both
	// are in percent.
	Computed float64 `json:"computed"`
	Written  float64 `json:"written"`
}

// statusOf returns the status of a service. The caller holds Router.mu.
func (r *Router) statusOf(s *service, plan weigh.Plan, err error) Status {
	out := Status{
		Service: s.name, State: StateWaiting, Reason: plan.Reason, Blocked: plan.Blocked,
		Notes: append(slices.Clone(plan.Notes), r.notes[s.name]...), Refused: s.refused,
	}
	if !s.lastWrite.IsZero() {
		at := s.lastWrite.UTC()
		out.LastWrite = &at
	}
	switch {
	case errors.Is(err, errNotLead):
		out.Reason += ", " + err.Error()
	case plan.Want == nil && !plan.Held && len(plan.Blocked) == 0 && plan.Refused == "":
	case err != nil:
		out.State, out.Reason = StateError, hint(err).Error()
	case len(plan.Blocked) > 0:
		out.State = StateBlocked
	case plan.Refused != "":
		out.State, out.Reason = StateRefused, plan.Refused
	case plan.Want != nil && len(plan.Want) == 0:
		out.State = StateRemoved
	case plan.Held && plan.Reason != "unchanged":
		out.State = StateHeld
	default:
		out.State = StateRouted
	}
	out.Groups = r.groupsOf(s, plan)
	return out
}

func (r *Router) groupsOf(s *service, plan weigh.Plan) []GroupStatus {
	weights := r.weights(s, time.Now())
	groups := map[string]*GroupStatus{}
	at := func(name string) *GroupStatus {
		if groups[name] == nil {
			w := weights[name]
			groups[name] = &GroupStatus{Subset: name, Weight: w.Value, Source: string(w.Source),
				AgeSeconds: w.Age.Seconds(), Confidence: w.Confidence, Tokens: w.Tokens, Note: w.Note}
		}
		return groups[name]
	}
	for _, in := range s.instances {
		g := at(in.Group.Name())
		g.Registered++
		if in.Healthy {
			g.Healthy++
			g.Slots += in.Slots
		}
	}
	for _, share := range plan.Shares {
		at(share.Group).Computed = float64(share.Hundredths) / 100
	}
	if o := r.cache[weigh.Key{Kind: weigh.Splitter, Name: s.name}]; o.Ours {
		for _, split := range o.Entry.Splits {
			at(split.Subset).Written = float64(split.Hundredths) / 100
		}
	}
	out := make([]GroupStatus, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b GroupStatus) int { return strings.Compare(a.Subset, b.Subset) })
	return out
}

// Report is the response of /v1/status.
type Report struct {
	Leading  bool     `json:"leading"`
	Services []Status `json:"services"`
}

// Report returns the status of all services, sorted by name.
func (r *Router) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Report{Leading: r.leading, Services: []Status{}}
	for _, s := range r.services {
		status := s.status
		if !r.leading || status.Service == "" {
			status = r.statusOf(s, weigh.Plan{Reason: cmp.Or(r.failing("instances of "+s.name),
				r.failing("services", "election"), "another router leads, or the service was not reconciled yet")}, nil)
		}
		out.Services = append(out.Services, status)
	}
	slices.SortFunc(out.Services, func(a, b Status) int { return strings.Compare(a.Service, b.Service) })
	return out
}

var errNotYet = errors.New("Consul has not answered yet")

// failing returns the errors of some watches, "" if all work. The caller holds Router.mu.
func (r *Router) failing(watches ...string) string {
	var out []string
	for _, what := range watches {
		if err := r.failures[what]; err != nil {
			out = append(out, what+": "+hint(err).Error())
		}
	}
	return strings.Join(out, "; ")
}

// Handler serves /v1/status (JSON; ?service=<name> for one service), /metrics (Prometheus) and
// /health. /health answers 200 while Consul answers and this router leads or is able to, otherwise
// 503 with the reason.
func (r *Router) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, req *http.Request) {
		report := r.Report()
		if name := req.URL.Query().Get("service"); name != "" {
			report.Services = slices.DeleteFunc(report.Services, func(s Status) bool { return s.Service != name })
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		why := r.failing("services", "rates", "election")
		r.mu.Unlock()
		if why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}
