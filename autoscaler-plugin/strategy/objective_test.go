package strategy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
)

// chat is a service with a gateway that knows 15 minutes of steady demand.
type chat struct {
	*testing.T
	plugin     *Plugin
	client     *consul.Client
	kv         *consul.KV
	now        time.Time
	arrived    int64        // tokens per second
	met        int          // of 10 requests per second
	down       bool         // the gateway does not answer
	count      int64        // the count that is set
	awakeCalls atomic.Int32 // how often the gateway received the number of awake replicas
	stop       func()
	log        strings.Builder
}

func startChat(t *testing.T) *chat {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	c := &chat{T: t, now: time.Now().Truncate(time.Second), arrived: 10_000, met: 10, stop: server.Stop}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			c.awakeCalls.Add(1)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if c.down {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer := api.Concurrency{Now: c.now}
		for at := c.now.Unix() - 900; at <= c.now.Unix(); at++ {
			answer.Series = append(answer.Series, api.Point{Time: at, Active: 9, Tokens: &api.Tokens{Arrived: c.arrived, Ended: 10, Met: c.met, Missed: 10 - c.met}})
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(gateway.Close)
	c.client, c.kv = server.Client, server.Client.KV()
	c.plugin = New(hclog.New(&hclog.LoggerOptions{Output: &c.log}))
	settings := map[string]string{"consul_address": server.Address, "learn_coldstart": "false", "gateways": strings.TrimPrefix(gateway.URL, "http://")}
	if err := c.plugin.SetConfig(settings); err != nil {
		t.Fatal(err)
	}
	return c
}

// learn publishes curves like a gateway.
func (c *chat) learn(curves map[string]learned.Curve) {
	c.Helper()
	doc := learned.NewRates(c.now)
	for class, curve := range curves {
		doc.Classes[class] = learned.Class{Rate: 1, Samples: curve.Samples, Tokens: map[string]learned.Curve{"5of20": curve}}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		c.Fatal(err)
	}
	if _, err := c.kv.Put(&consul.KVPair{Key: "aliquot/rates/chat/g", Value: text}, nil); err != nil {
		c.Fatal(err)
	}
}

// benchmarked saves a profile like aliquot bench.
func (c *chat) benchmarked(class string, curve learned.Curve) {
	c.Helper()
	p := learned.Profile{Measured: c.now.Add(-time.Hour), Class: class, Slices: "10of20", Answers: 500, Curve: &curve}
	if _, err := profilekv.Save(c.Context(), c.client, "chat", p); err != nil {
		c.Fatal(err)
	}
}

func (c *chat) run(query string, settings map[string]string) (*sdk.ScalingAction, error) {
	e := &sdk.ScalingCheckEvaluation{Check: &sdk.ScalingPolicyCheck{
		Name: "demand", Query: query, QueryWindow: 15 * time.Minute, Strategy: &sdk.ScalingPolicyStrategy{Config: settings},
	}}
	for i := range 900 {
		e.Metrics = append(e.Metrics, sdk.TimestampedMetric{Timestamp: c.now.Add(time.Duration(i-899) * time.Second), Value: 9})
	}
	got, err := c.plugin.Run(e, c.count)
	if err != nil {
		return nil, err
	}
	return got.Action, nil
}

var (
	fast = learned.Curve{Prefill: 36e-6, A: 8e-3, B: 20e-6, C: 49e-9, Prompt: 1000, Output: 200, KV: 450_000, Samples: 90}
	slow = learned.Curve{Prefill: 147e-6, A: 37e-3, B: 20e-6, C: 546e-9, Prompt: 1000, Output: 200, KV: 85_000, Samples: 90}
)

const promisedClasses = "h100 slots=8 cost=5 max=8, l4 slots=4 cost=3 max=8"

// The strategy reads arrivals from the gateways, and curves from Consul. Until it has both, the
// count follows demand and the reason says why.
func TestCountsFollowAnObjective(t *testing.T) {
	c := startChat(t)
	settings := map[string]string{"class": "h100", "classes": promisedClasses, "objective": "ttft=2s tpot=100ms"}
	for _, query := range []string{"tokens service=chat", "concurrency service=chat"} {
		a, err := c.run(query, settings)
		if err != nil || !strings.HasPrefix(a.Reason, "by demand, because the speed of h100 and of l4 is not known yet: growing: demand 9.0") {
			t.Fatalf("%s, nothing learned: %+v, %v", query, a, err)
		}
	}
	few := slow
	few.Samples = 7
	c.learn(map[string]learned.Curve{"h100": fast, "l4": few})
	if a, err := c.run("tokens service=chat", settings); err != nil || !strings.Contains(a.Reason, "l4 may have one replica until measured (speed from the hardware table); ") {
		t.Errorf("too little learned of l4: %+v, %v", a, err)
	}
	settings["classes"] = strings.Replace(promisedClasses, "l4", "own-chip", 1)
	if a, err := c.run("tokens service=chat", settings); err != nil || !strings.Contains(a.Reason, "the plan leaves out own-chip: not measured yet; ") {
		t.Errorf("nothing known of own-chip: %+v, %v", a, err)
	}
	settings["classes"] = promisedClasses
	c.benchmarked("l4", slow)
	if a, err := c.run("tokens service=chat", settings); err != nil || strings.Contains(a.Reason, "may have one") ||
		!strings.HasPrefix(a.Reason, "by the objective, 100.0% within, curve of l4 from profile of "+c.now.Add(-time.Hour).UTC().Format(time.DateOnly)+", ") {
		t.Errorf("l4 was benchmarked: %+v, %v", a, err)
	}
	c.learn(map[string]learned.Curve{"h100": fast, "l4": slow})
	steady, err := c.run("tokens service=chat", settings)
	// One replica of h100 serves more than 8.3 mean requests per second.
	if err != nil || steady.Count != 1 || !strings.HasPrefix(steady.Reason, "by the objective, 100.0% within, growing: replicas of h100 0.") {
		t.Fatalf("steady: %+v, %v", steady, err)
	}
	// A policy with one kind of replica does not name its class.
	one, err := c.run("tokens service=chat", map[string]string{"slots": "8", "objective": settings["objective"]})
	if err != nil || one.Count != 1 || !strings.HasPrefix(one.Reason, "by the objective") {
		t.Errorf("one kind of replica: %+v, %v", one, err)
	}
	// The load is used only as long as the objective is not.
	byLoad, err := c.run("load service=chat classes='"+promisedClasses+"'", settings)
	if err != nil || byLoad.Count != steady.Count || !strings.HasPrefix(byLoad.Reason, "by the objective") {
		t.Errorf("with a query for load: %+v, %v", byLoad, err)
	}
	c.arrived = 60_000
	more, err := c.run("tokens service=chat", settings)
	if err != nil || more.Count <= steady.Count {
		t.Errorf("six times as much: %+v, %v", more, err)
	}
	c.met = 5
	if missing, err := c.run("tokens service=chat", settings); err != nil || missing.Count <= more.Count || !strings.Contains(missing.Reason, "50.0% within") {
		t.Errorf("half of it misses: %+v, %v", missing, err)
	}
	settings["objective"] = "ttft=1ms"
	if a, err := c.run("tokens service=chat", settings); err != nil || !strings.Contains(a.Reason, "cannot be met") {
		t.Errorf("an impossible objective: %+v, %v", a, err)
	}
	for text, times := range map[string]int{"because the speed of h100 and of l4": 2, "l4 may have one replica": 1, "the objective cannot be met": 1, "the count follows the objective": 1} {
		if n := strings.Count(c.log.String(), text); n != times {
			t.Errorf("%q is logged %d times, want %d:\n%s", text, n, times, c.log.String())
		}
	}
}

func TestWithoutGatewaysDemandDecides(t *testing.T) {
	c := startChat(t)
	c.down = true
	settings := map[string]string{"slots": "4", "objective": "ttft=2s"}
	a, err := c.run("concurrency service=chat", settings)
	if err != nil || a.Count != 3 || !strings.HasPrefix(a.Reason, "by demand, because the gateways' traffic is not known: gateway ") {
		t.Errorf("requests at once: %+v, %v", a, err)
	}
	if a, err := c.run("tokens service=chat", settings); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("tokens: %+v, %v, want an error, since demand is not known", a, err)
	}
	for want, settings := range map[string]map[string]string{
		"the query counts tokens but the strategy plans in requests": {"slots": "4"},
		`objective is "fast": unknown word "fast" in the objective`:  {"slots": "4", "objective": "fast"},
	} {
		if _, err := c.run("tokens service=chat", settings); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := c.run("sum(requests)", map[string]string{"slots": "4", "objective": "ttft=2s"}); err == nil || !strings.Contains(fmt.Sprint(err), "needs a query of aliquot-apm") {
		t.Errorf("another APM's query: %v", err)
	}
}

// Arrivals count only from the first second that all gateways report, so that a count does not
// shrink after a gateway was replaced.
func TestWhatCameBeforeAGatewayWasReplacedIsNotCounted(t *testing.T) {
	h := demand.History{First: 100, Seconds: make([]demand.Second, 900), Answered: 980}
	for i := range h.Seconds {
		h.Seconds[i] = demand.Second{Active: 5, Arrived: 600, Met: 1}
	}
	known := objective.Known{Curves: objective.Sizes[learned.Curve]{"l4": {"1of1": slow}}}
	force := objective.Force{}.Next(&scale.Config{Classes: []scale.Class{{Name: "l4"}}, Objective: &scale.Objective{TTFT: time.Second, Quantile: 0.9}}, known, time.Now())
	got := trafficOf(h, force)
	if len(got.Arrived) != 20 || len(got.Met) != 20 || len(got.Missed) != 20 || got.Arrived[0] != 0.5 {
		t.Errorf("%d seconds of arrivals, %d and %d of answers, want the last 20", len(got.Arrived), len(got.Met), len(got.Missed))
	}
	if n := len(requestsOf(h)); n != 900 {
		t.Errorf("%d seconds of demand, want all", n)
	}
}
