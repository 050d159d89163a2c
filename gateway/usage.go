package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"aliquot.example/internal/api"
)

// accounts sum up the tokens of tenants since the gateway started.
type accounts struct {
	since time.Time
	mu    sync.Mutex
	of    map[account]*api.TenantUsage
}

type account struct{ service, tenant string }

// maxAccounts limits the accounts of tenants without configuration: clients can invent any number
// of names.
const maxAccounts = 10_000

// otherTenants is the shared account of further tenants.
const otherTenants = "other"

func newAccounts() *accounts {
	return &accounts{since: time.Now(), of: map[account]*api.TenantUsage{}}
}

func (a *accounts) add(service, tenant string, named bool, s *sample) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := account{service, tenant}
	u := a.of[key]
	if u == nil && !named && len(a.of) >= maxAccounts {
		key.tenant = otherTenants
		u = a.of[key]
	}
	if u == nil {
		u = &api.TenantUsage{Service: service, Tenant: key.tenant}
		a.of[key] = u
	}
	u.Requests++
	u.Prompt += s.prompt
	u.Cached += s.cached
	u.Output += s.output
	if s.estimated {
		u.Estimated++
	}
}

// list returns a copy of the accounts of a service, or of all services for "".
func (a *accounts) list(service string) []api.TenantUsage {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []api.TenantUsage{}
	for key, u := range a.of {
		if service == "" || key.service == service {
			out = append(out, *u)
		}
	}
	slices.SortFunc(out, func(x, y api.TenantUsage) int {
		return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.Tenant, y.Tenant))
	})
	return out
}

func (s *Server) serveUsage(w http.ResponseWriter, r *http.Request) {
	service := r.FormValue("service")
	if service != "" && s.known(w, service) == nil {
		return
	}
	writeJSON(w, api.Usage{Since: s.accounts.since, Usage: s.accounts.list(service)})
}

// charged counts the tokens of a finished request.
func (x *exchange) charged(s *sample) {
	x.server.accounts.add(x.service.name, x.request.Tenant, x.plan.tenants.named(x.request.Tenant), s)
	source := "usage"
	if s.estimated {
		source = "estimate"
	}
	counter := x.server.metrics.tokens
	tenant := x.plan.tenants.known(x.request.Tenant)
	for kind, n := range map[string]int64{"prompt": s.prompt, "cached": s.cached, "output": s.output} {
		if n > 0 {
			counter.WithLabelValues(x.service.name, tenant, kind, source).Add(float64(n))
		}
	}
}
