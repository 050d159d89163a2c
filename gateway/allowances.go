package gateway

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"aliquot.example/internal/allowance"
)

// allowances limit the tokens per minute of tenants, over all services.
type allowances struct {
	mu sync.Mutex
	of map[string]*allowance.Account
	// swept is when full accounts were last dropped, which has to check all accounts.
	swept time.Time
}

// maxAllowances limits the accounts of tenants without configuration: clients can invent any
// number of names.
const maxAllowances = 10_000

// bound returns the limit of a tenant in tokens per minute, 0 for none.
func (t *tenants) bound(tenant string) float64 {
	if limit, named := t.TokensPerMinute[tenant]; named {
		return limit
	}
	return t.TokensPerMinute[""]
}

// account returns a tenant's account with a limit of perMinute. The caller holds mu.
func (a *allowances) account(tenant string, named bool, perMinute float64, now time.Time) *allowance.Account {
	one := a.of[tenant]
	if one == nil && !named && len(a.of) >= maxAllowances {
		if now.Sub(a.swept) >= time.Second {
			a.swept = now
			maps.DeleteFunc(a.of, func(_ string, o *allowance.Account) bool { return o.Full(now) })
		}
		if len(a.of) >= maxAllowances {
			tenant = "" // the account that all further tenants share
			one = a.of[tenant]
		}
	}
	if one == nil {
		one = allowance.New(perMinute, now)
		a.of[tenant] = one
	}
	one.Change(perMinute, now)
	return one
}

// limit is the state of a tenant's allowance, for OpenAI's rate limit headers.
type limit struct {
	perMinute, left float64
	full            time.Duration
}

func (l *limit) publish(h http.Header) {
	h["X-Ratelimit-Limit-Tokens"] = []string{strconv.FormatInt(int64(l.perMinute), 10)}
	h["X-Ratelimit-Remaining-Tokens"] = []string{strconv.FormatInt(int64(l.left), 10)}
	h["X-Ratelimit-Reset-Tokens"] = []string{l.full.Round(time.Millisecond).String()}
}

// take charges n tokens to a tenant's account, or returns the time after which to try again.
func (a *allowances) take(tenant string, named bool, perMinute, n float64, now time.Time) (status limit, ok bool,
	after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.account(tenant, named, perMinute, now)
	ok, after = one.Take(n, now)
	status.perMinute = perMinute
	status.left, status.full = one.Left(now)
	return status, ok, after
}

func (a *allowances) settle(tenant string, named bool, perMinute, taken, used float64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.account(tenant, named, perMinute, now).Settle(taken, used, now)
}

// spent charges tokens that a tenant used at another gateway.
func (a *allowances) spent(tenant string, named bool, perMinute, n float64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.account(tenant, named, perMinute, now).Settle(0, n, now)
}

// spentElsewhere charges tokens that a tenant used at another gateway, so that its limit applies to
// all gateways together.
func (s *Server) spentElsewhere(tenant string, n float64) {
	t := s.plan.Load().tenants
	if bound := t.bound(tenant); bound > 0 {
		s.allowances.spent(tenant, t.named(tenant), bound, n, time.Now())
	}
}

// spend reports a tenant's use to the other gateways.
func (s *Server) spend(tenant string, n float64) {
	if p := s.options.Peers; p != nil && n != 0 {
		p.Spend(tenant, n)
	}
}

// charge charges the estimated tokens of a request to its tenant. If the allowance is used up, it
// refuses the request and returns false.
func (x *exchange) charge() bool {
	r := x.reading
	if r == nil || x.body == nil {
		return true
	}
	bound := x.plan.tenants.bound(x.request.Tenant)
	if bound <= 0 {
		return true
	}
	// Charge at most a minute's tokens now, and the rest when they are used: the largest possible
	// use of a request says little.
	n := min(float64(r.prompt+r.expected), bound)
	status, ok, after := x.server.allowances.take(x.request.Tenant, x.plan.tenants.named(x.request.Tenant), bound, n,
		time.Now())
	status.publish(x.writer.Header())
	if !ok {
		x.outcome = tokenLimit
		r.turnedAway()
		refuse(&x.writer, x.in, tokenLimit, "", min(max(after, time.Second), allowance.Minute))
		return false
	}
	r.charged = n
	x.server.spend(x.request.Tenant, n)
	return true
}
