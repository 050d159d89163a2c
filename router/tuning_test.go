package router_test

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/router"
)

// entries reads the entries of a service that the router tunes.
func (f *fixture) entries(service string) (d *api.ServiceConfigEntry, r *api.ServiceResolverConfigEntry, routes *api.ServiceRouterConfigEntry) {
	f.t.Helper()
	for _, kind := range []string{api.ServiceDefaults, api.ServiceResolver, api.ServiceRouter} {
		e, _, err := f.Client.ConfigEntries().Get(kind, service, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		switch e := e.(type) {
		case *api.ServiceConfigEntry:
			d = e
		case *api.ServiceResolverConfigEntry:
			r = e
		case *api.ServiceRouterConfigEntry:
			routes = e
		}
	}
	return d, r, routes
}

func (f *fixture) set(e api.ConfigEntry) {
	f.t.Helper()
	if _, _, err := f.Client.ConfigEntries().Set(e, nil); err != nil {
		f.t.Fatal(err)
	}
}

// What an operator adds to the router's entries, or sets in place of its defaults,
// outlives the router's writes and a change of its file.
func TestFieldsOfAnOperatorStay(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	r, _ := f.route(f.conf(""))
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))
	await(t, func() string {
		return f.kinds("service-defaults", "service-resolver", "service-router", "service-splitter")
	})
	defaults, resolver, routes := f.entries("chat")
	if defaults.LocalRequestTimeoutMs != 600000 || resolver.RequestTimeout != 10*time.Minute || resolver.LoadBalancer == nil || resolver.LoadBalancer.Policy != "least_request" {
		t.Fatalf("written: %+v, %+v", defaults, resolver)
	}
	resolver.RequestTimeout, resolver.ConnectTimeout = time.Hour, 77*time.Second
	f.set(resolver)
	defaults.MaxInboundConnections = 99
	f.set(defaults)
	routes.Routes[0].Destination.IdleTimeout = 3 * time.Minute
	routes.Routes[0].Destination.RetryOnStatusCodes = []uint32{503}
	routes.Meta["team"] = "search"
	f.set(routes)

	// A new class rewrites the resolver, a new file everything else.
	f.register("chat", "t4", 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1, "t4": 1}))
	r.Reload(f.conf(`request_timeout = "20m"`))
	await(t, func() string {
		d, r, s := f.entries("chat")
		if d.LocalRequestTimeoutMs != 1200000 || s.Routes[0].Destination.RequestTimeout != 20*time.Minute || len(r.Subsets) != 3 {
			return "the new file is not written"
		}
		return ""
	})
	defaults, resolver, routes = f.entries("chat")
	if resolver.RequestTimeout != time.Hour || resolver.ConnectTimeout != 77*time.Second {
		t.Errorf("the resolver has %v and %v", resolver.RequestTimeout, resolver.ConnectTimeout)
	}
	if d := routes.Routes[0].Destination; d.IdleTimeout != 3*time.Minute || len(d.RetryOnStatusCodes) != 1 || routes.Meta["team"] != "search" {
		t.Errorf("the route has %+v, the meta %v", d, routes.Meta)
	}
	if defaults.MaxInboundConnections != 99 {
		t.Errorf("the defaults are %+v", defaults)
	}
}

// A protocol of proxy-defaults stays in force, and is followed when it changes.
func TestAProtocolIsInherited(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	global := &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "grpc"}}
	f.set(global)
	f.register("chat", "h100", 1)
	f.register("named", "h100", 1)
	r, _ := f.route(f.conf(`service "named" { protocol = "http2" }`))
	awaitState(t, r, "chat", router.StateRouted, "")
	awaitState(t, r, "named", router.StateRouted, "")
	protocol := func(service string) string {
		d, _, _ := f.entries(service)
		return d.Protocol
	}
	if protocol("chat") != "grpc" || protocol("named") != "http2" {
		t.Errorf("chat is written as %q, named as %q", protocol("chat"), protocol("named"))
	}
	global.Config["protocol"] = "http2"
	f.set(global)
	await(t, func() string {
		if got := protocol("chat"); got != "http2" {
			return "chat is written as " + got
		}
		return ""
	})
}

func TestWithoutAProtocolInForceOneIsWritten(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.set(&api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "tcp"}})
	f.register("chat", "h100", 1)
	r, _ := f.route(f.conf(""))
	awaitState(t, r, "chat", router.StateRouted, "")
	if d, _, _ := f.entries("chat"); d.Protocol != "http" {
		t.Errorf("the protocol is %q", d.Protocol)
	}
}

func TestAffinityIsARingHash(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	proxy := f.mesh("chat", map[string]int{"h100": 2, "l4": 2})
	f.route(f.conf(`service "chat" {
	affinity_header = "x-session-id"
	request_timeout = "0s"
}`))
	var routes []*routev3.Route
	envoy, err := f.FollowFor(20*time.Second, proxy, func(e *consultest.Envoy) bool {
		routes = routesOf(e, "chat")
		if len(routes) != 2 || len(routes[0].GetRoute().GetWeightedClusters().GetClusters()) != 2 {
			return false
		}
		for _, c := range e.Clusters {
			if c.LbPolicy == clusterv3.Cluster_RING_HASH {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatalf("%v; routes %v", err, routes)
	}
	action := routes[0].GetRoute()
	if p := action.HashPolicy; len(p) != 1 || p[0].GetHeader().GetHeaderName() != "x-session-id" {
		t.Errorf("hash policies %v of %d clusters", p, len(envoy.Clusters))
	}
	if d := action.GetTimeout(); d == nil || d.AsDuration() != 0 {
		t.Errorf("the time-out is %v, want none", d)
	}
}

// An instance that the status names as left out gets nothing, though its class has
// good ones.
func TestWhatIsLeftOutGetsNothing(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	meta := []string{"aliquot_route", "true", "gpu_class", "h100", "aliquot_slices", "6", "aliquot_slices_total", "20"}
	f.instance("chat", "good", api.HealthPassing, meta...)
	f.instance("chat", "bad", api.HealthPassing, append(meta, "aliquot_weight", "NaN")...)
	r, _ := f.route(f.conf(""))
	s := awaitState(t, r, "chat", router.StateRouted, "aliquot_weight")
	if len(s.Refused) != 1 {
		t.Errorf("refused %q", s.Refused)
	}
	_, resolver, _ := f.entries("chat")
	found, _, err := f.Client.Health().Service("chat", "", true, &api.QueryOptions{Filter: resolver.Subsets["h100-s6of20"].Filter})
	if err != nil || len(found) != 1 || found[0].Service.ID != "good" {
		t.Errorf("the subset selects %d instances, %v", len(found), err)
	}
}

// A service asks for a ring hash by the meta of its instances, by several headers of which
// the first that a request has counts, and takes it back.
func TestAServiceAsksForARingHash(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	proxy := f.mesh("chat", map[string]int{"h100": 2, "l4": 1})
	ask := func(headers string) {
		for _, id := range []string{"chat-h100-0", "chat-h100-1", "chat-l4-0"} {
			class, _, _ := strings.Cut(strings.TrimPrefix(id, "chat-"), "-")
			f.instance("chat", id, api.HealthPassing, "gpu_class", class, "aliquot_route", "true", "aliquot_affinity", headers)
		}
	}
	ask("x-session-id, x-prefix")
	f.route(f.conf(""))
	await(t, func() string {
		return f.kinds("service-defaults", "service-resolver", "service-router", "service-splitter")
	})
	policies := func() (string, []api.HashPolicy) {
		_, resolver, _ := f.entries("chat")
		if resolver.LoadBalancer == nil {
			return "", nil
		}
		return resolver.LoadBalancer.Policy, resolver.LoadBalancer.HashPolicies
	}
	awaitBalance := func(want string) (hashes []api.HashPolicy) {
		t.Helper()
		await(t, func() string {
			policy, found := policies()
			if hashes = found; policy != want {
				return "the resolver balances by " + policy
			}
			return ""
		})
		return hashes
	}
	want := []api.HashPolicy{{Field: "header", FieldValue: "x-session-id", Terminal: true}, {Field: "header", FieldValue: "x-prefix"}}
	if got := awaitBalance("ring_hash"); !reflect.DeepEqual(got, want) {
		t.Errorf("the resolver hashes %+v, want %+v", got, want)
	}
	_, err := f.FollowFor(20*time.Second, proxy, func(e *consultest.Envoy) bool {
		routes := routesOf(e, "chat")
		if len(routes) == 0 {
			return false
		}
		hashes := routes[0].GetRoute().GetHashPolicy()
		return len(hashes) == 2 && hashes[0].GetTerminal() && hashes[0].GetHeader().GetHeaderName() == "x-session-id" && hashes[1].GetHeader().GetHeaderName() == "x-prefix"
	})
	if err != nil {
		t.Errorf("no Envoy would hash these headers: %v", err)
	}
	ask("")
	awaitBalance("least_request")
}

// The shares of a language model are tokens a second, of each part of a GPU by itself.
func TestSharesOfTokens(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	sliced := func(id, slices string) {
		f.instance("chat", id, api.HealthPassing, "aliquot_route", "true", "gpu_class", "h100", "aliquot_slices", slices, "aliquot_slices_total", "20")
	}
	sliced("small", "5")
	sliced("large-0", "10")
	sliced("large-1", "10")
	f.register("chat", "l4", 1)
	curve := func(rate float64) learned.Curve {
		return learned.Curve{Prefill: 1e-5, A: 0.01, Prompt: 900, Output: 100, Rate: rate, Samples: 500}
	}
	doc := learned.NewRates(time.Now())
	doc.Classes["h100"] = learned.Class{Rate: 0.5, Slots: 8, Samples: 1000, Replica: 4, Tokens: map[string]learned.Curve{"5of20": curve(2), "10of20": curve(6)}}
	doc.Classes["l4"] = learned.Class{Rate: 0.25, Slots: 8, Samples: 500, Replica: 2, Tokens: map[string]learned.Curve{"1of1": curve(2)}}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Client.KV().Put(&api.KVPair{Key: "aliquot/rates/chat/gw", Value: text}, nil); err != nil {
		t.Fatal(err)
	}
	r, _ := f.route(f.conf(""))
	// 2 + 2 x 6 + 2 requests of 1,000 tokens a second.
	f.awaitChain("chat", map[string]int{"h100-s5of20": 1250, "h100-s10of20": 7500, "l4": 1250})
	for _, g := range awaitState(t, r, "chat", router.StateRouted, "").Groups {
		if want := map[string]float64{"h100-s5of20": 2000, "h100-s10of20": 6000, "l4": 2000}[g.Subset]; g.Source != "learned" || math.Abs(g.Tokens-want) > 1 {
			t.Errorf("%+v, want %v tokens a second", g, want)
		}
	}
	// Without published rates of a class its profile counts.
	delete(doc.Classes, "l4")
	if text, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	l4 := curve(0)
	l4.Prefill, l4.A, l4.Prompt = 1e-4, 0.04, 100
	p := learned.Profile{Measured: time.Now().Add(-30 * 24 * time.Hour), Class: "l4", Slices: "1of1", Answers: 500, Curve: &l4}
	if _, err := profilekv.Save(t.Context(), f.Client, "chat", p); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Client.KV().Put(&api.KVPair{Key: "aliquot/rates/chat/gw", Value: text}, nil); err != nil {
		t.Fatal(err)
	}
	for _, g := range awaitState(t, r, "chat", router.StateRouted, `"source":"bench"`).Groups {
		l4.Prompt = 900
		if want := 1000 * learned.WithinOf(l4, learned.Objective{}).Rate; g.Subset == "l4" && math.Abs(g.Tokens-want) > 1 {
			t.Errorf("%+v, want %v tokens a second", g, want)
		}
	}
}
