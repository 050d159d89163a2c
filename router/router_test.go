package router_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/weigh"
	"aliquot.example/router"
	"aliquot.example/router/config"
	"aliquot.example/router/control"
)

// fixture is a Consul server and a node full of instances.
type fixture struct {
	t *testing.T
	*consultest.Server
}

func start(t *testing.T, extra map[string]any) *fixture {
	t.Helper()
	s, err := consultest.Start(t.TempDir(), extra)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return &fixture{t, s}
}

// conf reads a configuration with the fixture's address and the quick timing that
// tests want.
func (f *fixture) conf(text string) *config.Config {
	f.t.Helper()
	c, err := config.Parse([]byte(text), "test.hcl")
	if err != nil {
		f.t.Fatal(err)
	}
	c.Consul.Address = f.Address
	c.Audit = time.Second
	return c
}

// route runs a router in this process until the test ends or stop is called.
func (f *fixture) route(c *config.Config) (r *router.Router, stop func()) {
	f.t.Helper()
	return f.routeBy(c, func(e router.Election) router.Election { return e })
}

// routeBy is like route, with the election that elected returns for the real one.
func (f *fixture) routeBy(c *config.Config, elected func(router.Election) router.Election) (r *router.Router, stop func()) {
	f.t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	var out io.Writer = os.Stderr
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	client, err := control.New(c.Consul, c.Owner, c.Rates)
	if err != nil {
		f.t.Fatal(err)
	}
	r = router.New(c, client, client, elected(&control.Election{Client: client, Config: c.Leader, Name: f.t.Name(), Log: log}), log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	stop = func() { cancel(); <-done }
	f.t.Cleanup(stop)
	return r, stop
}

// register adds n instances of a class that are passing.
func (f *fixture) register(service, class string, n int, more ...string) {
	f.t.Helper()
	for i := range n {
		f.instance(service, fmt.Sprintf("%s-%s-%d", service, class, i), api.HealthPassing, append([]string{"gpu_class", class, "aliquot_route", "true"}, more...)...)
	}
}

// instance writes one instance with a check into the catalog.
func (f *fixture) instance(service, id, status string, meta ...string) {
	f.t.Helper()
	m := map[string]string{}
	for i := 0; i < len(meta); i += 2 {
		m[meta[i]] = meta[i+1]
	}
	if err := f.Instance("gpu-node", service, id, status, m); err != nil {
		f.t.Fatal(err)
	}
}

// health sets the check of some instances of a class.
func (f *fixture) health(service, class, status string, from, to int) {
	f.t.Helper()
	for i := from; i < to; i++ {
		if err := f.Health("gpu-node", fmt.Sprintf("%s-%s-%d", service, class, i), status); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) deregister(service, class string, from, to int) {
	f.t.Helper()
	for i := from; i < to; i++ {
		_, err := f.Client.Catalog().Deregister(&api.CatalogDeregistration{Node: "gpu-node", ServiceID: fmt.Sprintf("%s-%s-%d", service, class, i)}, nil)
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// want computes the shares that classes should have.
func want(t *testing.T, counts map[string]int) map[string]int {
	t.Helper()
	var instances []weigh.Instance
	var loads []weigh.Load
	for class, n := range counts {
		g, err := weigh.ParseGroup(class)
		if err != nil {
			t.Fatal(err)
		}
		instances = append(instances, weigh.Instance{Group: g})
		loads = append(loads, weigh.Load{Group: class, Count: n})
	}
	weights := weigh.Weights(instances, nil, nil, nil, weigh.DefaultTrust(), time.Now())
	for i := range loads {
		loads[i].Rate = weights[loads[i].Group].Value
	}
	shares, err := weigh.Shares(loads)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range shares {
		out[s.Group] = s.Hundredths
	}
	return out
}

// await looks at a condition until it holds; the condition returns what is missing. How
// long that takes is the host's business: the limit only ends a test that hangs.
func await(t *testing.T, missing func() string) {
	t.Helper()
	const limit = 2 * time.Minute
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		why := missing()
		if why == "" {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("after %s: %s", limit, why)
		}
		<-tick.C
	}
}

func (f *fixture) awaitChain(service string, want map[string]int) {
	f.t.Helper()
	await(f.t, func() string {
		if got := f.Chain(service); !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("chain of %s is %v, want %v", service, got, want)
		}
		return ""
	})
}

func status(t *testing.T, r *router.Router, service string) router.Status {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/status?service="+service, nil))
	var report router.Report
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Services) == 0 {
		return router.Status{}
	}
	return report.Services[0]
}

func awaitState(t *testing.T, r *router.Router, service, state, part string) router.Status {
	t.Helper()
	var s router.Status
	await(t, func() string {
		s = status(t, r, service)
		text, _ := json.Marshal(s)
		if s.State != state || !strings.Contains(string(text), part) {
			return fmt.Sprintf("want state %q with %q: %s", state, part, text)
		}
		return ""
	})
	return s
}

func TestSharesFollowHealth(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 2)
	f.register("chat", "l4", 3)
	f.register("chat", "mi300x", 1)
	r, _ := f.route(f.conf(""))
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 3, "mi300x": 1}))
	awaitState(t, r, "chat", router.StateRouted, "table")

	f.health("chat", "h100", api.HealthCritical, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 3, "mi300x": 1}))

	f.health("chat", "mi300x", api.HealthWarning, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 3, "mi300x": 0}))
	resp, _, err := f.Client.DiscoveryChain().Get("chat", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, node := range resp.Chain.Nodes {
		if node.Resolver != nil && (node.Resolver.Failover == nil || len(node.Resolver.Failover.Targets) != 2) {
			t.Errorf("%s has no failover to both other classes: %+v", name, node.Resolver)
		}
	}

	f.health("chat", "mi300x", api.HealthPassing, 0, 1)
	f.health("chat", "h100", api.HealthPassing, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 3, "mi300x": 1}))

	f.register("chat", "b200", 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 3, "mi300x": 1, "b200": 1}))
	f.deregister("chat", "l4", 0, 3)
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 0, "mi300x": 1, "b200": 1}))
}

func TestOptingOutRemovesWhatWasWritten(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	// A protocol that we did not write stays, and stays as it is.
	hand := &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "chat", Protocol: "grpc"}
	if _, _, err := f.Client.ConfigEntries().Set(hand, nil); err != nil {
		t.Fatal(err)
	}
	c := f.conf(`service "chat" {
		rule "batch" {
			header "x-batch-size" { at_least = 32 }
			min_weight = 0.5
		}
	}`)
	f.route(c)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))
	await(t, func() string {
		return f.kinds("service-defaults", "service-resolver", "service-router", "service-splitter")
	})
	for _, class := range []string{"h100", "l4"} {
		f.instance("chat", "chat-"+class+"-0", api.HealthPassing, "gpu_class", class)
	}
	await(t, func() string { return f.kinds("service-defaults") })
	if e, _, err := f.Client.ConfigEntries().Get(api.ServiceDefaults, "chat", nil); err != nil || e.(*api.ServiceConfigEntry).Protocol != "grpc" || len(e.GetMeta()) != 0 {
		t.Fatalf("the hand-written entry is %+v, %v", e, err)
	}
}

// kinds compares the kinds of all entries there are.
func (f *fixture) kinds(want ...string) string {
	var got []string
	for _, kind := range weigh.Kinds() {
		list, _, err := f.Client.ConfigEntries().List(string(kind), nil)
		if err != nil {
			return err.Error()
		}
		for range list {
			got = append(got, string(kind))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Sprintf("entries are %v, want %v", got, want)
	}
	return ""
}

// routes returns the routes of a service's service-router as JSON, "" without one.
func (f *fixture) routes(service string) string {
	entry, _, err := f.Client.ConfigEntries().Get(api.ServiceRouter, service, nil)
	if err != nil {
		return ""
	}
	text, _ := json.Marshal(entry.(*api.ServiceRouterConfigEntry).Routes)
	return string(text)
}

// A rule by weight, memory or precision leads to the same hardware while that has no
// instance for a while, also by a router that was not there when it had one. The
// rule is left out only when the class is given up.
func TestRulesHoldBetweenTwoInstances(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h200", 1)
	f.register("chat", "l4", 2)
	text := `service "chat" {
		rule "batch" {
			header "x-batch-size" { at_least = 32 }
			min_weight = 0.8
		}
		rule "big" {
			path_prefix   = "/big/"
			min_memory_gb = 140
		}
		rule "fp8" {
			header "x-precision" { exact = "fp8" }
			min_weight = 0.8
			precision  = "fp8"
			strict     = true
		}
	}`
	_, stop := f.route(f.conf(text))
	f.awaitChain("chat", want(t, map[string]int{"h200": 1, "l4": 2}))
	var before string
	await(t, func() string {
		if before = f.routes("chat"); before == "" {
			return "no service-router"
		}
		return ""
	})
	if n := strings.Count(before, `"ServiceSubset":"h200`); n != 3 {
		t.Fatalf("%d routes lead to the h200: %s", n, before)
	}
	f.deregister("chat", "h200", 0, 1)
	gone := want(t, map[string]int{"h200": 0, "l4": 2})
	f.awaitChain("chat", gone)
	if after := f.routes("chat"); after != before {
		t.Errorf("without an instance the routes are\n%s\nand were\n%s", after, before)
	}
	stop()

	r, stop := f.route(f.conf(text))
	awaitState(t, r, "chat", router.StateRouted, `"subset":"h200","registered":0`)
	if after := f.routes("chat"); after != before {
		t.Errorf("after a restart the routes are\n%s\nand were\n%s", after, before)
	}
	stop()

	// Given up, the strict rule still keeps its requests off the l4.
	c := f.conf(text)
	c.Limits.Retain = 2 * time.Second
	f.route(c)
	await(t, func() string {
		if now := f.routes("chat"); strings.Contains(now, "h200") || strings.Count(now, `"Service":"chat--fp8"`) != 1 || strings.Contains(now, "/big/") {
			return "the class is not given up: " + now
		}
		return ""
	})
}
