package router_test

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/hashicorp/consul/api"

	"aliquot/router"
	"aliquot/router/consultest"
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
