package control

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/weigh"
)

// Meta keys of every entry that the router writes.
const (
	metaOwner   = "aliquot_owner"
	metaService = "aliquot_service" // the service that the entry serves
	// metaTuning holds the tuning that the router wrote last. If a field has another value, an
	// operator has changed it.
	metaTuning = "aliquot_tuning"
)

// tuning is the value of metaTuning.
type tuning struct {
	Request string `json:"request_timeout,omitempty"`
	Idle    string `json:"idle_timeout,omitempty"`
	Retries int    `json:"connect_retries,omitempty"`
	Balance string `json:"balance,omitempty"`
}

// written returns the tuning that the router wrote last, zero if there is none.
func written(e api.ConfigEntry) weigh.Tuning {
	var t tuning
	if json.Unmarshal([]byte(e.GetMeta()[metaTuning]), &t) != nil {
		return weigh.Tuning{}
	}
	request, _ := time.ParseDuration(t.Request)
	idle, _ := time.ParseDuration(t.Idle)
	return weigh.Tuning{RequestTimeout: request, IdleTimeout: idle, Retries: t.Retries, Balance: t.Balance}
}

func metaOf(e weigh.Entry, owner, service string, others map[string]string) map[string]string {
	meta := maps.Clone(others)
	if meta == nil {
		meta = map[string]string{}
	}
	meta[metaOwner], meta[metaService] = owner, service
	delete(meta, metaTuning)
	if e.Tuning == (weigh.Tuning{}) {
		return meta
	}
	t := tuning{Retries: e.Tuning.Retries, Balance: e.Tuning.Balance}
	if d := e.Tuning.RequestTimeout; d != 0 {
		t.Request = d.String()
	}
	if d := e.Tuning.IdleTimeout; d != 0 {
		t.Idle = d.String()
	}
	text, _ := json.Marshal(t)
	meta[metaTuning] = string(text)
	return meta
}

// encode converts an entry to Consul's form. From now, the present entry in Consul or nil, it keeps
// the fields that the router does not write, and tuning that an operator has changed.
func encode(e weigh.Entry, owner, service string, now api.ConfigEntry) api.ConfigEntry {
	out, err := copyOf(now)
	if err != nil || out == nil {
		out, _ = api.MakeConfigEntry(string(e.Kind), e.Name)
	}
	was := written(out)
	switch out := out.(type) {
	case *api.ServiceConfigEntry:
		out.Meta = metaOf(e, owner, service, out.Meta)
		out.Protocol = e.Protocol
		replace(&out.LocalRequestTimeoutMs, milliseconds(was.RequestTimeout), milliseconds(e.Tuning.RequestTimeout))
	case *api.ServiceResolverConfigEntry:
		out.Meta = metaOf(e, owner, service, out.Meta)
		encodeSubsets(out, e.Subsets)
		replace(&out.RequestTimeout, finite(was.RequestTimeout), finite(e.Tuning.RequestTimeout))
		if same(out.LoadBalancer, balancer(was.Balance)) {
			out.LoadBalancer = balancer(e.Tuning.Balance)
		}
	case *api.ServiceSplitterConfigEntry:
		out.Meta = metaOf(e, owner, service, out.Meta)
		out.Splits = encodeSplits(e, out.Splits)
	case *api.ServiceRouterConfigEntry:
		out.Meta = metaOf(e, owner, service, out.Meta)
		before := out.Routes
		out.Routes = nil
		for _, r := range e.Routes {
			out.Routes = append(out.Routes, encodeRoute(r, was, e.Tuning, before))
		}
	}
	return out
}

// copyOf copies an entry through JSON. It returns nil for nil.
func copyOf(e api.ConfigEntry) (api.ConfigEntry, error) {
	if e == nil {
		return nil, nil
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	out, err := api.MakeConfigEntry(e.GetKind(), e.GetName())
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	return out, err
}

// replace sets a field to want, unless an operator has changed it from was.
func replace[T comparable](field *T, was, want T) {
	if *field == was {
		*field = want
	}
}

func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// maxTimeout replaces "no timeout" in fields that cannot express it.
const maxTimeout = 24 * time.Hour

func finite(d time.Duration) time.Duration {
	if d < 0 {
		return maxTimeout
	}
	return d
}

func milliseconds(d time.Duration) int { return int(finite(d).Milliseconds()) }

func balancer(balance string) *api.LoadBalancer {
	if headers := weigh.HashHeaders(balance); headers != nil {
		out := &api.LoadBalancer{Policy: "ring_hash"}
		for i, header := range headers {
			// Only the first header that a request has counts.
			out.HashPolicies = append(out.HashPolicies, api.HashPolicy{Field: "header", FieldValue: header,
				Terminal: i < len(headers)-1})
		}
		return out
	}
	if balance == "" {
		return nil
	}
	return &api.LoadBalancer{Policy: balance}
}

func encodeSubsets(r *api.ServiceResolverConfigEntry, subsets []weigh.Subset) {
	r.Subsets, r.Failover = map[string]api.ServiceResolverSubset{}, nil
	for _, s := range subsets {
		r.Subsets[s.Name] = api.ServiceResolverSubset{Filter: s.Filter, OnlyPassing: true}
		if len(s.Failover) == 0 {
			continue
		}
		if r.Failover == nil {
			r.Failover = map[string]api.ServiceResolverFailover{}
		}
		var f api.ServiceResolverFailover
		for _, target := range s.Failover {
			f.Targets = append(f.Targets, api.ServiceResolverFailoverTarget{Service: r.Name, ServiceSubset: target})
		}
		r.Failover[s.Name] = f
	}
}

func encodeSplits(e weigh.Entry, before []api.ServiceSplit) []api.ServiceSplit {
	var out []api.ServiceSplit
	for _, split := range e.Splits {
		s := api.ServiceSplit{Service: split.Service, ServiceSubset: split.Subset}
		for _, b := range before {
			if b.Service == s.Service && b.ServiceSubset == s.ServiceSubset {
				s.RequestHeaders, s.ResponseHeaders = b.RequestHeaders, b.ResponseHeaders
			}
		}
		s.Weight = float32(split.Hundredths) / 100
		out = append(out, s)
	}
	return out
}

// encodeRoute converts a route. If before has a route with the same match and destination, it keeps
// the changes that an operator made to it.
func encodeRoute(r weigh.Route, was, want weigh.Tuning, before []api.ServiceRoute) api.ServiceRoute {
	match := &api.ServiceRouteHTTPMatch{PathPrefix: r.PathPrefix}
	for _, h := range r.Headers {
		match.Header = append(match.Header, api.ServiceRouteHTTPMatchHeader{Name: h.Name, Exact: h.Exact,
			Regex: h.Regex, Present: h.Present})
	}
	d := &api.ServiceRouteDestination{
		Service: r.Service, ServiceSubset: r.Subset,
		RequestTimeout: was.RequestTimeout, IdleTimeout: was.IdleTimeout,
		NumRetries: uint32(was.Retries), RetryOnConnectFailure: was.Retries > 0,
	}
	for _, b := range before {
		if b.Match != nil && same(b.Match.HTTP, match) && b.Destination != nil && b.Destination.Service == d.Service &&
			b.Destination.ServiceSubset == d.ServiceSubset {
			d = b.Destination
		}
	}
	replace(&d.RequestTimeout, was.RequestTimeout, want.RequestTimeout)
	replace(&d.IdleTimeout, was.IdleTimeout, want.IdleTimeout)
	replace(&d.NumRetries, uint32(was.Retries), uint32(want.Retries))
	replace(&d.RetryOnConnectFailure, was.Retries > 0, want.Retries > 0)
	if d.PrefixRewrite == "" && r.PathPrefix != "/" {
		// Without PrefixRewrite, Consul 1.22 removes the prefix from the path.
		d.PrefixRewrite = r.PathPrefix
	}
	return api.ServiceRoute{Match: &api.ServiceRouteMatch{HTTP: match}, Destination: d}
}
