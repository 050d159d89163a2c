package router_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/weigh"
	"aliquot.example/router"
	"aliquot.example/router/config"
)

func TestHandWrittenEntriesAreInTheWayAndLeftAlone(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	if _, _, err := f.Client.ConfigEntries().Set(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "chat", Protocol: "http"}, nil); err != nil {
		t.Fatal(err)
	}
	hand := &api.ServiceResolverConfigEntry{Kind: api.ServiceResolver, Name: "chat", ConnectTimeout: 3 * time.Second,
		Subsets: map[string]api.ServiceResolverSubset{"mine": {Filter: `Service.Meta.gpu_class == "h100"`}}}
	if _, _, err := f.Client.ConfigEntries().Set(hand, nil); err != nil {
		t.Fatal(err)
	}
	before, _, _ := f.Client.ConfigEntries().Get(api.ServiceResolver, "chat", nil)
	r, _ := f.route(f.conf(""))
	s := awaitState(t, r, "chat", router.StateBlocked, "service-resolver/chat is hand-written")
	if len(s.Groups) != 2 {
		t.Errorf("a blocked service shows no groups: %+v", s)
	}
	if missing := f.kinds("service-defaults", "service-resolver"); missing != "" {
		t.Error(missing)
	}
	after, _, _ := f.Client.ConfigEntries().Get(api.ServiceResolver, "chat", nil)
	if before.GetModifyIndex() != after.GetModifyIndex() {
		t.Errorf("the hand-written entry was touched")
	}
	if _, err := f.Client.ConfigEntries().Delete(api.ServiceResolver, "chat", nil); err != nil {
		t.Fatal(err)
	}
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))
}

func TestWhatOthersDoToOurEntriesIsUndone(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	f.route(f.conf(""))
	shares := want(t, map[string]int{"h100": 1, "l4": 1})
	f.awaitChain("chat", shares)
	if _, err := f.Client.ConfigEntries().Delete(api.ServiceSplitter, "chat", nil); err != nil {
		t.Fatal(err)
	}
	f.awaitChain("chat", shares)
	// Weights that Consul accepts and no Envoy should get.
	e, _, err := f.Client.ConfigEntries().Get(api.ServiceSplitter, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	splitter := e.(*api.ServiceSplitterConfigEntry)
	splitter.Splits[0].Weight, splitter.Splits[1].Weight = -50, 150
	if _, _, err := f.Client.ConfigEntries().Set(splitter, nil); err != nil {
		t.Fatal(err)
	}
	f.awaitChain("chat", shares)
	// Once everything is as wanted, nothing is written any more.
	index := func() (sum uint64) {
		for _, kind := range weigh.Kinds() {
			if e, _, err := f.Client.ConfigEntries().Get(string(kind), "chat", nil); err == nil {
				sum += e.GetModifyIndex()
			}
		}
		return sum
	}
	settled := index()
	timer := time.NewTimer(2500 * time.Millisecond) // two audits
	<-timer.C
	if index() != settled {
		t.Error("entries are rewritten although nothing changed")
	}
}

func TestHostileInstancesAreRefusedWithoutAWrite(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.instance("chat", "bad-class", api.HealthPassing, "aliquot_route", "true", "gpu_class", `h100" or "x" == "x`)
	f.instance("chat", "bad-weight", api.HealthPassing, "aliquot_route", "true", "gpu_class", "h100", "aliquot_weight", "-5")
	f.instance("chat", "no-class", api.HealthPassing, "aliquot_route", "true")
	f.instance("..", "bad-name", api.HealthPassing, "aliquot_route", "true", "gpu_class", "h100")
	r, _ := f.route(f.conf(""))
	s := awaitState(t, r, "chat", router.StateRemoved, "gpu_class")
	if len(s.Refused) != 3 {
		t.Errorf("refused: %q", s.Refused)
	}
	if missing := f.kinds(); missing != "" {
		t.Error(missing)
	}
	// A good one is routed, the bad ones still get nothing.
	f.register("chat", "l4", 1)
	f.awaitChain("chat", map[string]int{"l4": 10000})
	if s := awaitState(t, r, "chat", router.StateRouted, "aliquot_weight"); len(s.Refused) != 3 {
		t.Errorf("refused: %q", s.Refused)
	}
}

func (f *fixture) putRates(service, gateway string, updated time.Time, rates map[string]float64) {
	f.t.Helper()
	classes := map[string]any{}
	for class, rate := range rates {
		classes[class] = map[string]any{"rate": rate / 4, "slots": 4, "n": 500, "replica_rate": rate}
	}
	text, _ := json.Marshal(map[string]any{"version": 1, "updated": updated, "classes": classes})
	if _, err := f.Client.KV().Put(&api.KVPair{Key: "aliquot/rates/" + service + "/" + gateway, Value: text}, nil); err != nil {
		f.t.Fatal(err)
	}
}

func TestLearnedRatesReplaceTheTable(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	r, _ := f.route(f.conf(`class "l4" { weight = 0.25 }`))
	f.awaitChain("chat", map[string]int{"h100": 8000, "l4": 2000})
	awaitState(t, r, "chat", router.StateRouted, `"source":"profile"`)

	f.putRates("chat", "gw-1", time.Now(), map[string]float64{"h100": 30, "l4": 10})
	f.awaitChain("chat", map[string]int{"h100": 7500, "l4": 2500})
	awaitState(t, r, "chat", router.StateRouted, `"source":"learned"`)

	// Below one point nothing is written.
	f.putRates("chat", "gw-1", time.Now(), map[string]float64{"h100": 30.5, "l4": 10})
	awaitState(t, r, "chat", router.StateHeld, "below 1.00")
	f.awaitChain("chat", map[string]int{"h100": 7500, "l4": 2500})

	// Broken and incredible rates count for nothing.
	if _, err := f.Client.KV().Put(&api.KVPair{Key: "aliquot/rates/chat/gw-1", Value: []byte(`{"version":1,"classes":{"h100":{"replica_rate":-7,"n":9}}}`)}, nil); err != nil {
		t.Fatal(err)
	}
	f.awaitChain("chat", map[string]int{"h100": 8000, "l4": 2000})
	awaitState(t, r, "chat", router.StateRouted, "out of range")
	f.putRates("chat", "gw-1", time.Now(), map[string]float64{"h100": 1, "l4": 1e8})
	awaitState(t, r, "chat", router.StateRouted, "ignored")
	f.awaitChain("chat", map[string]int{"h100": 8000, "l4": 2000})
}

func TestReloadChangesProfilesAndServices(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.instance("plain", "plain-a", api.HealthPassing, "gpu_class", "h100")
	f.instance("plain", "plain-b", api.HealthPassing, "gpu_class", "l4")
	f.register("chat", "h100", 1)
	r, _ := f.route(f.conf(`service "chat" { route = false }`))
	awaitState(t, r, "chat", router.StateRemoved, "opted out")
	r.Reload(f.conf(`service "plain" {
		route = true
		protocol = "http2"
		class "h100" { weight = 3 }
		class "l4" { weight = 1 }
	}`))
	f.awaitChain("plain", map[string]int{"h100": 7500, "l4": 2500})
	f.awaitChain("chat", map[string]int{"h100": 10000})
	r.Reload(f.conf(`service "chat" { route = false }`))
	await(t, func() string { return f.kinds() })
}

func TestConsulRestartAndStaleSession(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 2)
	f.register("chat", "l4", 1)
	c := f.conf("")
	c.Leader.TTL = 2 * time.Second
	r, _ := f.route(c)
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 1}))

	f.Stop()
	if err := f.Resume(); err != nil {
		t.Fatal(err)
	}
	f.health("chat", "h100", api.HealthCritical, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))

	sessions, _, err := f.Client.Session().List(nil)
	if err != nil || len(sessions) == 0 {
		t.Fatalf("sessions %v, %v", sessions, err)
	}
	for _, s := range sessions {
		if _, err := f.Client.Session().Destroy(s.ID, nil); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() string {
		if r.Report().Leading {
			return "still leading without a session"
		}
		return ""
	})
	f.health("chat", "h100", api.HealthPassing, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 1}))
}

// doubtful is an election whose leader is uncertain, at times, whether it still leads: as long as
// Consul answers its renewal late.
type doubtful struct {
	router.Election
	doubt *atomic.Bool
}

func (d doubtful) Run(ctx context.Context, lead func(context.Context, func() bool), trouble func(error)) {
	d.Election.Run(ctx, func(ctx context.Context, valid func() bool) {
		lead(ctx, func() bool { return !d.doubt.Load() && valid() })
	}, trouble)
}

// A change that comes while Consul has not renewed the leader's session in time is written once it
// has, without a new term.
func TestALateRenewalLosesNoChange(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 2)
	f.register("chat", "l4", 1)
	var doubt atomic.Bool
	r, _ := f.routeBy(f.conf(""), func(e router.Election) router.Election { return doubtful{e, &doubt} })
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 1}))
	doubt.Store(true)
	f.health("chat", "h100", api.HealthCritical, 0, 1)
	awaitState(t, r, "chat", router.StateWaiting, "session")
	doubt.Store(false)
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))
}

func TestTwoRoutersHandOver(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.register("chat", "h100", 2)
	f.register("chat", "l4", 1)
	var stops []func()
	var routers []*router.Router
	for range 2 {
		c := f.conf("")
		c.Leader.TTL = 10 * time.Minute // longer than the test waits
		r, stop := f.route(c)
		routers, stops = append(routers, r), append(stops, stop)
	}
	f.awaitChain("chat", want(t, map[string]int{"h100": 2, "l4": 1}))
	leader := 0
	if routers[1].Report().Leading {
		leader = 1
	}
	if routers[1-leader].Report().Leading {
		t.Fatal("two leaders")
	}
	stops[leader]()
	f.health("chat", "h100", api.HealthCritical, 0, 1)
	// An orderly end gives the lock back, so nobody waits for the session's TTL.
	f.awaitChain("chat", want(t, map[string]int{"h100": 1, "l4": 1}))
}

func TestManyServicesShareFewConnections(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	const services = 40
	for i := range services {
		f.register(fmt.Sprintf("svc-%02d", i), "h100", 1)
		f.register(fmt.Sprintf("svc-%02d", i), "l4", 1)
	}
	c := f.conf("")
	c.Consul.MaxConnections = 24
	f.route(c)
	both, one := want(t, map[string]int{"h100": 1, "l4": 1}), want(t, map[string]int{"h100": 0, "l4": 1})
	for i := range services {
		f.awaitChain(fmt.Sprintf("svc-%02d", i), both)
	}
	f.health("svc-33", "h100", api.HealthCritical, 0, 1)
	f.awaitChain("svc-33", one)
}

func TestSubsetsSelectTheirInstances(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for id, meta := range map[string][]string{
		"whole":        {"gpu_class", "h100"},
		"whole-said":   {"gpu_class", "h100", "aliquot_slices", "1", "aliquot_slices_total", "1"},
		"empty-slices": {"gpu_class", "h100", "aliquot_slices", ""},
		"six":          {"gpu_class", "h100", "aliquot_slices", "6"},
		"one-of-20":    {"gpu_class", "h100", "aliquot_slices", "1", "aliquot_slices_total", "20"},
		"six-of-20":    {"gpu_class", "h100", "aliquot_slices", "6", "aliquot_slices_total", "20", "aliquot_weight", "0.3000"},
		// Those that are left out are in no subset.
		"no-number": {"gpu_class", "h100", "aliquot_slices", "6", "aliquot_slices_total", "20", "aliquot_weight", "NaN"},
		"hostile":   {"gpu_class", "h100", "aliquot_slices", "6", "aliquot_slices_total", "20", "aliquot_weight", `1" or "1" == "1`},
		"thirty":    {"gpu_class", "h100", "aliquot_slices", "30", "aliquot_slices_total", "20"},
	} {
		f.instance("chat", id, api.HealthPassing, append(meta, "aliquot_route", "true")...)
	}
	for name, ids := range map[string]string{
		"h100": "empty-slices whole whole-said", "h100-s6": "six", "h100-s1of20": "one-of-20", "h100-s6of20": "six-of-20",
	} {
		g, err := weigh.ParseGroup(name)
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := f.Client.Health().Service("chat", "", true, &api.QueryOptions{Filter: g.Filter(false, "NaN", `1" or "1" == "1`)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range found {
			got = append(got, e.Service.ID)
		}
		if slices.Sort(got); !slices.Equal(got, strings.Fields(ids)) {
			t.Errorf("subset %s selects %v, want %s", name, got, ids)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for text, part := range map[string]string{
		`nonsense = 1`:                          "test.hcl:1",
		`protocol = "tcp"`:                      "protocol",
		`class "H100" { weight = 1 }`:           "class",
		`class "h100" {}`:                       "want weight, or both",
		`class "h100" { weight = -1 }`:          "weight = -1",
		`service "a/b" {}`:                      "service name",
		"service \"a\" {\n rule \"r\" {\n }\n}": "test.hcl:2",
		`limits { interval = "1ms" }`:           "interval",
		`consul { max_connections = 3 }`:        "max_connections",
		`consul { cert_file = "x" }`:            "belong together",
		"service \"a\" {}\nservice \"a\" {}":    "is defined twice",
		`consul { token = "secret" }`:           "token",
		`leader { ttl = "soon" }`:               "leader ttl",
	} {
		_, err := config.Parse([]byte(text), "test.hcl")
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", text, err, part)
		}
	}
}
