package router_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/weigh"
	"aliquot.example/router"
)

// mesh registers instances with sidecars, and the sidecar of a client of theirs.
func (f *fixture) mesh(service string, counts map[string]int) (proxyID string) {
	f.t.Helper()
	port := 21000
	for class, n := range counts {
		for i := range n {
			meta := map[string]string{"gpu_class": class, "aliquot_route": "true"}
			id := fmt.Sprintf("%s-%s-%d", service, class, i)
			if err := f.Instance("gpu-node", service, id, api.HealthPassing, meta); err != nil {
				f.t.Fatal(err)
			}
			if err := f.Sidecar("gpu-node", service, id, api.HealthPassing, meta, port); err != nil {
				f.t.Fatal(err)
			}
			port++
		}
	}
	err := f.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: 9000,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Port:  9001,
			Proxy: &api.AgentServiceConnectProxyConfig{Upstreams: []api.Upstream{{DestinationName: service, LocalBindPort: 9002}}},
		}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return "web-sidecar-proxy"
}

const meshRules = `
service "chat" {
	rule "batch" {
		header "x-batch-size" { at_least = 32 }
		min_weight = 0.8
	}
	rule "fp8" {
		header "x-precision" { exact = "fp8" }
		precision = "fp8"
		strict    = true
	}
	rule "big" {
		path_prefix   = "/v1/models/big/"
		min_memory_gb = 150
	}
}`

// clusters returns the weights of a route by subset, in hundredths; one cluster
// without a weight has them all.
func clusters(r *routev3.Route) map[string]int {
	out := map[string]int{}
	if name := r.GetRoute().GetCluster(); name != "" {
		out[subset(name)] = weigh.Whole
	}
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out[subset(c.Name)] += int(c.Weight.GetValue())
	}
	return out
}

// subset takes "h100" out of "h100.chat.default.dc1.internal.<trust domain>.consul".
func subset(cluster string) string {
	name, _, _ := strings.Cut(cluster, ".")
	return name
}

// closeTo says whether weights are as computed: Consul's conversion to whole numbers
// may lose a hundredth.
func closeTo(got, want map[string]int) bool {
	for name, w := range want {
		if g, ok := got[name]; w-g > 1 || g > w || !ok && w > 0 {
			return false
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			return false
		}
	}
	return true
}

// rewritten is the path that Envoy would send on.
func rewritten(action *routev3.RouteAction, path string) string {
	if p := action.GetPrefixRewrite(); p != "" {
		return p + strings.TrimPrefix(path, "/v1/models/big/")
	}
	if r := action.GetRegexRewrite(); r != nil {
		substitution := regexp.MustCompile(`\\([0-9])`).ReplaceAllString(r.Substitution, "$${$1}")
		return regexp.MustCompile(r.Pattern.GetRegex()).ReplaceAllString(path, substitution)
	}
	return path
}

func routesOf(e *consultest.Envoy, service string) []*routev3.Route {
	c := e.Routes[service]
	if c == nil || len(c.VirtualHosts) == 0 {
		return nil
	}
	return c.VirtualHosts[0].Routes
}

func TestWhatEnvoyReceives(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	counts := map[string]int{"h100": 2, "l4": 3, "mi300x": 1, "t4": 1}
	proxy := f.mesh("chat", counts)
	f.route(f.conf(meshRules))
	all := want(t, counts)
	f.awaitChain("chat", all)

	var routes []*routev3.Route
	envoy, err := f.FollowFor(20*time.Second, proxy, func(e *consultest.Envoy) bool {
		routes = routesOf(e, "chat")
		return len(routes) == 5 && closeTo(clusters(routes[3]), all) && len(e.Endpoints) == 4*4+3*3
	})
	if err != nil {
		for _, r := range routes {
			t.Logf("route %v to %v", r.Match, clusters(r))
		}
		t.Fatal(err)
	}
	fast, fp8, big := routes[0], routes[1], routes[2]
	if got, w := clusters(fast), want(t, map[string]int{"h100": 2, "mi300x": 1}); !closeTo(got, w) {
		t.Errorf("large batches go to %v, want %v", got, w)
	}
	if got := clusters(fp8); !closeTo(got, suffixed(want(t, map[string]int{"h100": 2, "l4": 3, "mi300x": 1}), "--fp8")) {
		t.Errorf("fp8 goes to %v", got)
	}
	if got := clusters(big); !closeTo(got, map[string]int{"mi300x": weigh.Whole}) {
		t.Errorf("the big model goes to %v", got)
	}
	if got := big.Match.GetPrefix(); got != "/v1/models/big/" {
		t.Errorf("the big model's path is %q", got)
	}
	for i, r := range routes[:4] {
		action := r.GetRoute()
		if action.GetTimeout().AsDuration() != 10*time.Minute || action.GetIdleTimeout().AsDuration() != 10*time.Minute {
			t.Errorf("route %d has the time-outs %v and %v", i, action.GetTimeout(), action.GetIdleTimeout())
		}
		if p := action.GetRetryPolicy(); p.GetNumRetries().GetValue() != 2 || p.GetRetryOn() != "connect-failure" {
			t.Errorf("route %d retries by %v", i, p)
		}
	}
	if got := rewritten(big.GetRoute(), "/v1/models/big/generate"); got != "/v1/models/big/generate" {
		t.Errorf("the path reaches the replica as %q", got)
	}
	balanced := 0
	for name, c := range envoy.Clusters {
		if strings.HasPrefix(name, "failover-target~") {
			balanced++
			if c.LbPolicy != clusterv3.Cluster_LEAST_REQUEST {
				t.Errorf("cluster %s balances by %v", name, c.LbPolicy)
			}
		}
	}
	if balanced == 0 {
		t.Error("no cluster of a class was told")
	}
	header := fast.Match.Headers[0]
	//lint:ignore SA1019 Consul may send either form
	re := regexp.MustCompile(header.GetStringMatch().GetSafeRegex().GetRegex() + header.GetSafeRegexMatch().GetRegex())
	if header.Name != "x-batch-size" || re.MatchString("31") || !re.MatchString("32") || !re.MatchString("4096") {
		t.Errorf("header match %v", header)
	}
	// The instances of each class, and behind them those of the others, fastest first.
	for name, want := range map[string][]int{"h100": {2, 1, 3, 1}, "mi300x": {1, 2, 3, 1}, "l4": {3, 2, 1, 1}, "t4": {1, 2, 1, 3}, "l4--fp8": {3, 2, 1, 0}} {
		for i, n := range want {
			if got := endpoints(envoy, name, i); got != n {
				t.Errorf("%s: priority %d has %d healthy endpoints, want %d", name, i, got, n)
			}
		}
	}

	// An emptied class is told to Envoy as a weight of 0 and as unhealthy endpoints,
	// behind which those of the next class stand ready.
	for i := range counts["h100"] {
		id := fmt.Sprintf("chat-h100-%d", i)
		for _, id := range []string{id, id + "-sidecar-proxy"} {
			if err := f.Health("gpu-node", id, api.HealthCritical); err != nil {
				t.Fatal(err)
			}
		}
	}
	counts["h100"] = 0
	rest := want(t, counts)
	began := time.Now()
	_, err = f.FollowFor(30*time.Second, proxy, func(e *consultest.Envoy) bool {
		routes = routesOf(e, "chat")
		return len(routes) == 5 && closeTo(clusters(routes[3]), rest) && endpoints(e, "h100", 0) == 0 && endpoints(e, "h100", 1) == 1
	})
	if err != nil {
		t.Fatalf("after an emptied class: %v; default route %v", err, clusters(routes[len(routes)-1]))
	}
	t.Logf("Envoy would have it after %s", time.Since(began))
}

func TestAStrictRuleWithoutHardwareLeadsNowhere(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	proxy := f.mesh("chat", map[string]int{"t4": 1})
	r, _ := f.route(f.conf(meshRules))
	f.awaitChain("chat", map[string]int{"t4": weigh.Whole})
	var routes []*routev3.Route
	envoy, err := f.FollowFor(20*time.Second, proxy, func(e *consultest.Envoy) bool {
		routes = routesOf(e, "chat")
		return len(routes) == 3
	})
	if err != nil || !closeTo(clusters(routes[0]), map[string]int{"chat--fp8": weigh.Whole}) {
		t.Fatalf("%v: routes %v", err, routes)
	}
	for name, a := range envoy.Endpoints {
		for _, l := range a.Endpoints {
			if strings.HasPrefix(name, "chat--fp8.") && len(l.LbEndpoints) > 0 {
				t.Errorf("%s has endpoints: %v", name, a)
			}
		}
	}
	awaitState(t, r, "chat", router.StateRouted, "its requests fail")
}

func suffixed(m map[string]int, suffix string) map[string]int {
	out := map[string]int{}
	for k, v := range m {
		out[k+suffix] = v
	}
	return out
}

// endpoints counts the healthy ones that a subset's requests may go to at a priority: 0 is the
// subset itself, what follows are its failover targets.
func endpoints(e *consultest.Envoy, subset string, priority int) int {
	n := 0
	for name, a := range e.Endpoints {
		if strings.HasPrefix(name, fmt.Sprintf("failover-target~%d~%s.", priority, subset)) {
			for _, l := range a.Endpoints {
				for _, lb := range l.LbEndpoints {
					if lb.HealthStatus == corev3.HealthStatus_HEALTHY {
						n++
					}
				}
			}
		}
	}
	return n
}
