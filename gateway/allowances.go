package gateway

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"aliquot.example/internal/allowance"
)

// allowances are the tokens per minute that tenants may use, over all services.
type allowances struct {
	mu sync.Mutex
	of map[string]*allowance.Account
	// swept is when full accounts were last dropped, which takes a look at all.
	swept time.Time
}

// mostAllowances bounds the accounts of tenants that are not configured: of them there
// may be as many as clients make up.
const mostAllowances = 10_000

// bound returns how many tokens per minute a tenant may use, 0 for any number.
func (t *tenants) bound(tenant string) float64 {
	if limit, named := t.TokensPerMinute[tenant]; named {
		return limit
	}
	return t.TokensPerMinute[""]
}

// account returns a tenant's account with a bound of so much; under mu.
func (a *allowances) account(tenant string, named bool, perMinute float64, now time.Time) *allowance.Account {
	one := a.of[tenant]
	if one == nil && !named && len(a.of) >= mostAllowances {
		if now.Sub(a.swept) >= time.Second {
			a.swept = now
			maps.DeleteFunc(a.of, func(_ string, o *allowance.Account) bool { return o.Full(now) })
		}
		if len(a.of) >= mostAllowances {
			tenant = "" // shared by those that find no place
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

// limit is what a client is told of its tokens, under the names of OpenAI.
type limit struct {
	perMinute, left float64
	full            time.Duration
}

func (l *limit) tell(h http.Header) {
	h["X-Ratelimit-Limit-Tokens"] = []string{strconv.FormatInt(int64(l.perMinute), 10)}
	h["X-Ratelimit-Remaining-Tokens"] = []string{strconv.FormatInt(int64(l.left), 10)}
	h["X-Ratelimit-Reset-Tokens"] = []string{l.full.Round(time.Millisecond).String()}
}

// take takes n tokens from a tenant's account, or says when to try again.
func (a *allowances) take(tenant string, named bool, perMinute, n float64, now time.Time) (told limit, ok bool,
	after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.account(tenant, named, perMinute, now)
	ok, after = one.Take(n, now)
	told.perMinute = perMinute
	told.left, told.full = one.Left(now)
	return told, ok, after
}

func (a *allowances) settle(tenant string, named bool, perMinute, taken, used float64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.account(tenant, named, perMinute, now).Settle(taken, used, now)
}

// spent settles what a tenant used at another gateway.
func (a *allowances) spent(tenant string, named bool, perMinute, n float64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.account(tenant, named, perMinute, now).Settle(0, n, now)
}

// spentElsewhere takes what a tenant used at another gateway, so that its bound holds
// for all of them together.
func (s *Server) spentElsewhere(tenant string, n float64) {
	t := s.plan.Load().tenants
	if bound := t.bound(tenant); bound > 0 {
		s.allowances.spent(tenant, t.named(tenant), bound, n, time.Now())
	}
}

// spend tells the other gateways what a tenant used here.
func (s *Server) spend(tenant string, n float64) {
	if p := s.options.Peers; p != nil && n != 0 {
		p.Spend(tenant, n)
	}
}

// afford takes the tokens of a request from its tenant's allowance; false when the
// request was refused instead.
func (x *exchange) afford() bool {
	r := x.reading
	if r == nil || x.body == nil {
		return true
	}
	bound := x.plan.tenants.bound(x.request.Tenant)
	if bound <= 0 {
		return true
	}
	// More than a minute's tokens are taken when they are used: what a request may
	// use at most says little.
	n := min(float64(r.prompt+r.expected), bound)
	told, ok, after := x.server.allowances.take(x.request.Tenant, x.plan.tenants.named(x.request.Tenant), bound, n,
		time.Now())
	told.tell(x.writer.Header())
	if !ok {
		x.outcome = tokenLimit
		r.turnedAway()
		refuse(&x.writer, x.in, tokenLimit, "", min(max(after, time.Second), allowance.Minute))
		return false
	}
	r.taken = n
	x.server.spend(x.request.Tenant, n)
	return true
}
