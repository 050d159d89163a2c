package speed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/apm"
	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/autoscaler-plugin/strategy"
	"aliquot.example/e2e/consultest"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/control"
	"aliquot.example/internal/dispatch"
)

const classes = "h100 slots=8 cost=8 max=4, t4 slots=2 cost=1 max=8"

// setting is the two plugins with a real Consul, and a gateway's admin listener that reports a
// constant number of requests on t4.
type setting struct {
	*testing.T
	consul   *consultest.Server
	apm      *apm.Plugin
	strategy *strategy.Plugin
	log      *strings.Builder
	begin    time.Time
	classes  string
}

func start(t *testing.T) *setting {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	s := &setting{T: t, consul: server, log: &strings.Builder{}, begin: time.Unix(1_700_000_000, 0), classes: classes}
	s.restart()
	return s
}

// onT4 is the number of active requests, all on t4.
const onT4 = 16

func (s *setting) restart() {
	s.Helper()
	from, to := s.begin.Add(-20*time.Minute), s.begin.Add(20*time.Minute) // longer than the whole test
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var series []map[string]any
		for t := from.Unix(); t < to.Unix(); t++ {
			series = append(series, map[string]any{"t": t, "queued": 0, "active": onT4, "class": map[string]any{"t4": map[string]any{"active": onT4}}})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"now": to, "series": series})
	}))
	s.Cleanup(gateway.Close)
	log := hclog.New(&hclog.LoggerOptions{Output: s.log})
	s.apm, s.strategy = apm.New(log), strategy.New(log)
	address := strings.TrimPrefix(s.consul.Address, "http://")
	if err := s.apm.SetConfig(map[string]string{"consul_address": address, "gateways": strings.TrimPrefix(gateway.URL, "http://")}); err != nil {
		s.Fatal(err)
	}
	if err := s.strategy.SetConfig(map[string]string{"consul_address": address}); err != nil {
		s.Fatal(err)
	}
}

// publish writes the learned rates of a busy slot, like a gateway.
func (s *setting) publish(gateway string, at time.Time, rates map[string]dispatch.Rate) {
	s.Helper()
	store := control.Rates{Client: s.consul.Client, Config: &config.Consul{Prefix: "aliquot/rates"}, Gateway: gateway}
	if err := store.Save(s.Context(), "llm", rates, at); err != nil {
		s.Fatal(err)
	}
}

// evaluate runs one evaluation of the policy of t4, like the agent.
func (s *setting) evaluate(after time.Duration, count int64) (load float64, _ *sdk.ScalingAction, _ error) {
	now := s.begin.Add(after)
	query := "load service=llm classes='" + s.classes + "'"
	metrics, err := s.apm.Query(query, sdk.TimeRange{From: now.Add(-15 * time.Minute), To: now})
	if err != nil {
		return 0, nil, err
	}
	got, err := s.strategy.Run(&sdk.ScalingCheckEvaluation{Metrics: metrics, Check: &sdk.ScalingPolicyCheck{
		Name: "load", Query: query, QueryWindow: 15 * time.Minute,
		Strategy: &sdk.ScalingPolicyStrategy{Name: strategy.Name, Config: map[string]string{"class": "t4", "classes": s.classes, "coldstart": "90s"}},
	}}, count)
	if err != nil {
		return 0, nil, err
	}
	return metrics[len(metrics)-1].Value, got.Action, nil
}

func (s *setting) want(what string, after time.Duration, load float64, count int64, reason string) {
	s.Helper()
	l, action, err := s.evaluate(after, 8)
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	if diff := l - load; diff > 1e-6 || diff < -1e-6 || action.Count != count || !strings.Contains(action.Reason, reason) {
		s.Errorf("%s: load %v, count %d, %q; want %v, %d, %q", what, l, action.Count, action.Reason, load, count, reason)
	}
}

// The gateways measure that a slot of t4 has a tenth of the rate of one of h100. Both plugins use
// this from the same second on. The replicas of t4 stay until those of h100, which replace them in
// the plan, can serve.
func TestBothPluginsCountByWhatTheGatewaysMeasured(t *testing.T) {
	s := start(t)
	s.want("nothing is measured", 0, onT4, 8, "demand 16.0")
	s.publish("a", s.begin, map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 40}, "t4": {Rate: 0.2, Samples: 7}})
	s.want("too few samples of t4", 10*time.Second, onT4, 8, "demand 16.0")
	s.publish("b", s.begin, map[string]dispatch.Rate{"h100": {Rate: 2, Samples: 40}, "t4": {Rate: 0.3, Samples: 7}})
	s.want("written down, not yet in force", 20*time.Second, onT4, 8, "demand 16.0")
	s.want("and not a moment earlier", 23*time.Second, onT4, 8, "demand 16.0")
	s.want("in force, while the new mix starts", 40*time.Second, onT4*0.1, 8, "holding 8: the speeds of the classes changed 16s ago")
	s.want("the new mix serves", 120*time.Second, onT4*0.1, 0, "shrinking: load 1.6 (average 1.6, last 6s 1.6), speed per slot: h100 1, t4 0.1")
	s.publish("a", s.begin.Add(120*time.Second), map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 40}, "t4": {Rate: 0.21, Samples: 7}})
	s.want("noise moves nothing", 140*time.Second, onT4*0.1, 0, "shrinking")
	s.restart()
	s.want("new plugins know it", 150*time.Second, onT4*0.1, 0, "speed per slot: h100 1, t4 0.1")
	if n := strings.Count(s.log.String(), "new speeds were measured"); n != 1 {
		t.Errorf("said %d times:\n%s", n, s.log)
	}
	if s.Failed() {
		pair, _, err := s.consul.Client.KV().Get("aliquot/speed/llm", nil)
		t.Logf("%+v, %v\n%s", pair, err, s.log)
	}
	s.consul.Stop()
	s.want("Consul is away", 160*time.Second, onT4*0.1, 0, "speed per slot: h100 1, t4 0.1")
	s.restart()
	if _, _, err := s.evaluate(170*time.Second, 8); err == nil || strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "set learn_speed to false") {
		t.Errorf("Consul is away and never answered: %v", err)
	}
}

func TestOldRatesStandWhereNothingIsMeasuredNow(t *testing.T) {
	s := start(t)
	s.publish("gone", s.begin.Add(-24*time.Hour), map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 256}, "t4": {Rate: 1.5, Samples: 256}})
	s.publish("ancient", s.begin.Add(-8*24*time.Hour), map[string]dispatch.Rate{"h100": {Rate: 1, Samples: 256}, "t4": {Rate: 300, Samples: 256}})
	s.want("first", 0, onT4, 8, "demand")
	s.want("yesterday's alone", 100*time.Second, onT4*0.5, 2, "speed per slot: h100 1, t4 0.5")
	s.publish("here", s.begin.Add(100*time.Second), map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 64}, "t4": {Rate: 0.3, Samples: 64}})
	s.want("today's is about to come", 110*time.Second, onT4*0.5, 8, "holding 8")
	s.want("and outweighs it", 300*time.Second, onT4*0.1, 0, "t4 0.1")
}

func TestWhatCannotBeReadOrWrittenIsSaid(t *testing.T) {
	s := start(t)
	put := func(key, value string) {
		if _, err := s.consul.Client.KV().Put(&consul.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("aliquot/rates/llm/x", `{"version":1,"classes":{"t4":{"rate":-1,"n":99},"h100":{"rate":1e300,"n":99}}}`)
	put("aliquot/rates/llm/y", `no JSON`)
	s.want("rates that cannot be", 0, onT4, 8, "demand")
	put("aliquot/speed/llm", `{"version":2}`)
	if _, _, err := s.evaluate(20*time.Second, 8); err == nil || !strings.Contains(err.Error(), "aliquot/speed/llm in Consul does not hold speeds of this release: delete it") {
		// A plugin would use the last value it read, so only new plugins see the error.
		s.restart()
		if _, _, err = s.evaluate(30*time.Second, 8); err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("got %v", err)
		}
	}
	if n := strings.Count(s.log.String(), "the old ones stay in force"); n < 1 {
		t.Errorf("said %d times:\n%s", n, s.log)
	}
	if _, err := speed.NewReader(map[string]string{"learn_speed": "maybe"}); err == nil {
		t.Error("learn_speed = maybe is accepted")
	}
	var off *speed.Reader
	if doc, err := off.Read(context.Background(), "llm"); err != nil || doc.Rates != nil {
		t.Errorf("switched off: %+v, %v", doc, err)
	}
}

// served returns what a gateway learns of a service on both classes. All requests have the same
// tokens, and the objective is a time between tokens.
func served(t *testing.T, tpot time.Duration) map[string]dispatch.Rate {
	t.Helper()
	q := dispatch.New(dispatch.Policy{Mode: dispatch.Tokens, SLO: dispatch.SLO{TPOT: tpot}, Placements: []dispatch.Placement{{}, {Require: []string{"h100"}}, {Require: []string{"t4"}}}})
	q.Put(dispatch.Replica{ID: "a", Class: "h100", Slices: 1, Slots: 1, Weight: 1, KV: 450_000})
	q.Put(dispatch.Replica{ID: "b", Class: "t4", Slices: 1, Slots: 1, Weight: 0.1, KV: 50_000})
	now := time.Unix(1_700_000_000, 0)
	for i := range 80 {
		k := &dispatch.Ticket{Request: dispatch.Request{Expire: now.Add(time.Hour), Prompt: 1000, Output: 200, Placement: 1 + i%2}}
		if why, _ := q.Submit(k, now); why != dispatch.Accepted {
			t.Fatal(why)
		}
		if q.Next(now) != k {
			t.Fatal("an idle replica is sent nothing")
		}
		now = now.Add(100 * time.Millisecond * time.Duration(1+9*(i%2)))
		q.Progress(k, 1, now)
		now = now.Add(2 * time.Second * time.Duration(1+9*(i%2)))
		q.Progress(k, 200, now)
		q.Settle(k, 1000, 0, 200)
		q.Finish(k, dispatch.Served, 0, now)
	}
	return q.Rates()
}

// Counts of engines that batch follow from the largest number of requests within the objective, as
// the gateway's dispatch publishes it.
func TestSlotsAreThoseThatMeetTheObjective(t *testing.T) {
	counts := map[time.Duration]int64{}
	for _, tpot := range []time.Duration{0, 60 * time.Millisecond} {
		s := start(t)
		s.classes = "h100 slots=measured cost=1000 max=0, t4 slots=measured cost=1 max=99"
		rates := served(t, tpot)
		if rates["t4"].Slots < 1 || rates["h100"].Slots <= rates["t4"].Slots || rates["t4"].Samples < 8 {
			t.Fatalf("%v: %+v", tpot, rates)
		}
		if _, action, err := s.evaluate(0, 8); err != nil || action.Meta["aliquot.plan.t4"] != 2 {
			t.Errorf("before anything is measured a replica counts 16 slots: %+v, %v", action, err)
		}
		s.publish("a", s.begin, rates)
		var action *sdk.ScalingAction
		for _, after := range []time.Duration{20 * time.Second, 40 * time.Second} {
			var err error
			if _, action, err = s.evaluate(after, 8); err != nil {
				t.Fatal(err)
			}
		}
		measured := action.Meta["aliquot.plan.t4"]
		s.classes = fmt.Sprintf("h100 slots=%d cost=1000 max=0, t4 slots=%d cost=1 max=99", int(rates["h100"].Slots), int(rates["t4"].Slots))
		_, action, err := s.evaluate(60*time.Second, 8)
		if err != nil || action.Meta["aliquot.plan.t4"] != measured {
			t.Errorf("%v: %v replicas are planned by what is measured, %v by the same numbers, %v", tpot, measured, action.Meta["aliquot.plan.t4"], err)
		}
		counts[tpot] = int64(measured.(int))
		t.Logf("%v between tokens: %.1f requests at once on t4, %d replicas for %d requests", tpot, rates["t4"].Slots, counts[tpot], onT4)
	}
	if counts[60*time.Millisecond] <= counts[0] {
		t.Errorf("%v: an objective needs no more replicas", counts)
	}
}
