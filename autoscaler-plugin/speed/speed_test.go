package speed_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot/autoscaler-plugin/apm"
	"aliquot/autoscaler-plugin/speed"
	"aliquot/autoscaler-plugin/strategy"
	"aliquot/gateway/config"
	"aliquot/gateway/control"
	"aliquot/internal/dispatch"
	"aliquot/router/consultest"
)

const classes = "h100 slots=8 cost=8 max=4, t4 slots=2 cost=1 max=8"

// setting is the two plugins beside a real Consul, where a gateway's admin listener
// tells of a constant number of requests on t4.
type setting struct {
	*testing.T
	consul   *consultest.Server
	apm      *apm.Plugin
	strategy *strategy.Plugin
	log      *strings.Builder
	begin    time.Time
}

func start(t *testing.T) *setting {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	s := &setting{T: t, consul: server, log: &strings.Builder{}, begin: time.Unix(1_700_000_000, 0)}
	s.restart()
	return s
}

// onT4 is how many requests are served, all of them by t4.
const onT4 = 16

func (s *setting) restart() {
	s.Helper()
	from, to := s.begin.Add(-20*time.Minute), s.begin.Add(20*time.Minute) // more than the whole test
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

// publish is a gateway that learned rates of a busy slot.
func (s *setting) publish(gateway string, at time.Time, rates map[string]dispatch.Rate) {
	s.Helper()
	store := control.Rates{Client: s.consul.Client, Config: &config.Consul{Prefix: "aliquot/rates"}, Gateway: gateway}
	if err := store.Save(s.Context(), "llm", rates, at); err != nil {
		s.Fatal(err)
	}
}

// evaluate is one evaluation of the policy of t4, as the agent runs it.
func (s *setting) evaluate(after time.Duration, count int64) (load float64, _ *sdk.ScalingAction, _ error) {
	now := s.begin.Add(after)
	query := "load service=llm classes='" + classes + "'"
	metrics, err := s.apm.Query(query, sdk.TimeRange{From: now.Add(-15 * time.Minute), To: now})
	if err != nil {
		return 0, nil, err
	}
	got, err := s.strategy.Run(&sdk.ScalingCheckEvaluation{Metrics: metrics, Check: &sdk.ScalingPolicyCheck{
		Name: "load", Query: query, QueryWindow: 15 * time.Minute,
		Strategy: &sdk.ScalingPolicyStrategy{Name: strategy.Name, Config: map[string]string{"class": "t4", "classes": classes, "coldstart": "90s"}},
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

// The gateways measure that a slot of t4 serves a tenth of what one of h100 serves.
// Both plugins count by it from the same second on, and the replicas of t4 stay
// until those of h100, that the plan has in their place, can serve.
func TestBothPluginsCountByWhatTheGatewaysMeasured(t *testing.T) {
	s := start(t)
	s.want("nothing is measured", 0, onT4, 8, "demand 16.0")
	s.publish("a", s.begin, map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 40}, "t4": {Rate: 0.2, Samples: 7}})
	s.want("too few samples of t4", 10*time.Second, onT4, 8, "demand 16.0")
	s.publish("b", s.begin, map[string]dispatch.Rate{"h100": {Rate: 2, Samples: 40}, "t4": {Rate: 0.3, Samples: 7}})
	s.want("written down, not yet in force", 20*time.Second, onT4, 8, "demand 16.0")
	s.want("and not a moment earlier", 23*time.Second, onT4, 8, "demand 16.0")
	s.want("in force, while the new mix starts", 40*time.Second, onT4*0.1, 8, "holding 8: speeds were measured anew 16s ago")
	s.want("the new mix serves", 120*time.Second, onT4*0.1, 0, "shrinking: load 1.6 (average 1.6, last 6s 1.6), a slot counts h100 1, t4 0.1")
	s.publish("a", s.begin.Add(120*time.Second), map[string]dispatch.Rate{"h100": {Rate: 3, Samples: 40}, "t4": {Rate: 0.21, Samples: 7}})
	s.want("noise moves nothing", 140*time.Second, onT4*0.1, 0, "shrinking")
	s.restart()
	s.want("new plugins know it", 150*time.Second, onT4*0.1, 0, "a slot counts h100 1, t4 0.1")
	if n := strings.Count(s.log.String(), "speeds were measured anew"); n != 1 {
		t.Errorf("said %d times:\n%s", n, s.log)
	}
	if s.Failed() {
		pair, _, err := s.consul.Client.KV().Get("aliquot/speed/llm", nil)
		t.Logf("%+v, %v\n%s", pair, err, s.log)
	}
	s.consul.Stop()
	s.want("Consul is away", 160*time.Second, onT4*0.1, 0, "a slot counts h100 1, t4 0.1")
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
	s.want("yesterday's alone", 100*time.Second, onT4*0.5, 2, "a slot counts h100 1, t4 0.5")
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
		// What was read before stands in, so the plugins must be new to see it.
		s.restart()
		if _, _, err = s.evaluate(30*time.Second, 8); err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("got %v", err)
		}
	}
	if n := strings.Count(s.log.String(), "are not counted with"); n < 1 {
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
