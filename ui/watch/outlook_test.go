package watch

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	autoscaler "aliquot.example/autoscaler-plugin/strategy"
	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/api"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
	"aliquot.example/ui/view"
)

// promised is a service with an objective: what its gateway tells, what is learned of it in a
// real Consul, the page that reads both and the strategy that does.
type promised struct {
	*testing.T
	w      *Watch
	plugin *autoscaler.Plugin
	kv     *consul.KV
	series []api.Point
}

const promisedClasses = "h100 slots=8 cost=5 max=8, l4 slots=4 cost=1 max=8"

func startPromised(t *testing.T) *promised {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	p := &promised{T: t, kv: server.Client.KV()}
	replica := consul.AgentServiceRegistration{Name: "chat", Meta: map[string]string{gpu.MetaClass: "l4", gpu.MetaSlices: "5", gpu.MetaTotal: "20"}}
	if err := server.Client.Agent().ServiceRegister(&replica); err != nil {
		t.Fatal(err)
	}
	random, demand, end := rand.New(rand.NewPCG(3, 4)), 10.0, time.Now().Unix()+300 // told as soon as they are asked for
	for at := end - 1000; at <= end; at++ {
		demand = max(0, demand+random.Float64()*2-0.95)
		missed := int(demand) / 20
		p.series = append(p.series, api.Point{
			Time: at, Queued: demand / 4, Active: demand, QueuedTokens: 1500 * demand / 4,
			Class:  map[string]api.ClassPoint{"h100": {Active: demand / 2}, "l4": {Active: demand / 2}},
			Tokens: &api.Tokens{Arrived: int64(900 * demand), Ended: int(demand), Met: int(demand) - missed, Missed: missed},
		})
	}
	told, err := json.Marshal(api.Concurrency{Now: time.Unix(end, 0), Series: p.series})
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/services":
			_ = json.NewEncoder(w).Encode([]api.Service{{Service: "chat"}})
		case strings.HasSuffix(r.URL.Path, "/latency"):
			_ = json.NewEncoder(w).Encode(api.Latencies{Now: time.Now()})
		default:
			_, _ = w.Write(told)
		}
	}))
	t.Cleanup(gateway.Close)
	admin := strings.TrimPrefix(gateway.URL, "http://")
	p.plugin = autoscaler.New(hclog.NewNullLogger())
	if err := p.plugin.SetConfig(map[string]string{"consul_address": server.Address, "learn_coldstart": "false", "learn_speed": "false", "gateways": admin}); err != nil {
		t.Fatal(err)
	}
	p.w = New(Options{Consul: server.Client, Gateways: []string{admin}})
	t.Cleanup(p.w.Follow(view.ScalingView, "chat"))
	return p
}

// learn publishes curves: on the slices of an L4 that serve, a step takes so many seconds.
func (p *promised) learn(step float64) {
	p.Helper()
	fast := learned.Curve{Prefill: 36e-6, A: 8e-3, B: 20e-6, C: 49e-9, Prompt: 1000, Output: 200, KV: 450_000, Samples: 90}
	slow := learned.Curve{Prefill: 147e-6, A: step, B: 20e-6, C: 546e-9, Prompt: 1000, Output: 200, KV: 85_000, Samples: 40}
	doc := learned.NewRates(time.Now())
	doc.Classes["h100"] = learned.Class{Rate: 1, Samples: 90, Tokens: map[string]learned.Curve{"5of20": fast}}
	doc.Classes["l4"] = learned.Class{Rate: 1, Samples: 90, Tokens: map[string]learned.Curve{"5of20": slow, "10of20": fast}}
	text, err := json.Marshal(doc)
	if err != nil {
		p.Fatal(err)
	}
	if _, err := p.kv.Put(&consul.KVPair{Key: "aliquot/rates/chat/g", Value: text}, nil); err != nil {
		p.Fatal(err)
	}
}

// asks has the service scaled by a query, in a group for each of its classes.
func (p *promised) asks(text string, settings ...map[string]string) {
	p.Helper()
	q, err := query.Parse(text)
	if err != nil {
		p.Fatal(err)
	}
	p.w.policies = nil
	for _, s := range settings {
		p.w.policies = append(p.w.policies, view.Policy{
			Service: "chat", Job: "chat", Group: s["class"], Query: q, Window: 15 * time.Minute, Enabled: true, Max: 100, Count: 2,
			Settings: s, SpeedsFor: scale.Always,
		})
	}
}

// run asks the strategy, with the demand up to so many seconds before the newest.
func (p *promised) run(text string, settings map[string]string, before int) *sdk.ScalingAction {
	p.Helper()
	q, err := query.Parse(text)
	if err != nil {
		p.Fatal(err)
	}
	e := &sdk.ScalingCheckEvaluation{Check: &sdk.ScalingPolicyCheck{
		Query: text, QueryWindow: 15 * time.Minute, Strategy: &sdk.ScalingPolicyStrategy{Config: settings},
	}}
	end := len(p.series) - before
	for _, of := range p.series[end-900 : end] {
		v := of.Queued + of.Active
		if q.Metric == query.Load {
			v = scale.Load(of.Queued, of.Active, map[string]float64{"h100": of.Class["h100"].Active, "l4": of.Class["l4"].Active}, scale.WithSpeeds(q.Classes, nil))
		}
		e.Metrics = append(e.Metrics, sdk.TimestampedMetric{Timestamp: time.Unix(of.Time, 0), Value: v})
	}
	for p.Context().Err() == nil { // the strategy waits a second for an answer, which takes longer on a busy machine
		got, err := p.plugin.Run(e, 2)
		if err != nil && !strings.Contains(err.Error(), "deadline exceeded") {
			p.Fatal(err)
		}
		if err == nil && !strings.Contains(got.Action.Reason, "deadline exceeded") {
			return got.Action
		}
	}
	return nil
}

// decided looks at the cluster until the page has decided for all that it remembers.
func (p *promised) decided() *view.Outlook {
	p.Helper()
	p.w.readCurves(p.Context())
	p.w.outlooks = map[string]*outlook{}
	for p.Context().Err() == nil {
		p.w.readGateways(p.Context())
		if o := p.w.Outlook("chat"); o != nil {
			return o
		}
	}
	p.Fatal("nothing is decided")
	return nil
}

// The page decides what the plugin decides of the same answers, for a policy with an objective:
// before anything is learned, with curves, and with others.
func TestAnObjectiveIsDecidedAsTheStrategyDoes(t *testing.T) {
	p := startPromised(t)
	of := func(class string) map[string]string {
		return map[string]string{"class": class, "classes": promisedClasses, "objective": "ttft=2s tpot=100ms", "coldstart": "30s"}
	}
	alone := map[string]string{"slots": "8", "objective": "e2e=20s quantile=0.9", "coldstart": "30s"}
	stages := []func(){func() {}, func() { p.learn(0.037) }, func() { p.learn(0.2) }}
	for i, learn := range stages {
		learn()
		var units []string
		for _, one := range []struct {
			query    string
			settings []map[string]string
		}{
			{"tokens service=chat", []map[string]string{of("h100"), of("l4")}},
			{"concurrency service=chat", []map[string]string{of("h100"), of("l4")}},
			{"load service=chat classes='" + promisedClasses + "'", []map[string]string{of("h100"), of("l4")}},
			{"tokens service=chat", []map[string]string{alone}},
		} {
			if i != 1 && len(units) > 0 { // all of them by one of the curves
				break
			}
			p.asks(one.query, one.settings...)
			o := p.decided()
			if (o.Curves != nil) != (i > 0) || o.Problem != "" || o.Planned[len(o.Planned)-1] == nil {
				t.Fatalf("%s, curves %d: of %v, in %q, %s", one.query, i, o.Curves, o.Unit, o.Problem)
			}
			units = append(units, o.Unit)
			for j, n := range p.w.next["chat"] { // in order of the groups, as the settings
				p.run(one.query, one.settings[j], 60) // where curves have moved it now holds for a cold start
				got := p.run(one.query, one.settings[j], 0)
				if int(got.Count) != n.Count || got.Reason != n.Reason {
					t.Errorf("%s, curves %d, %q: the page says %d, %s\nthe plugin %d, %s", one.query, i, n.Group, n.Count, n.Reason, got.Count, got.Reason)
				}
				if byObjective := strings.HasPrefix(n.Reason, "by the objective, "); byObjective != (i > 0) {
					t.Errorf("%s, curves %d: %s", one.query, i, n.Reason)
				}
			}
			if len(p.w.next["chat"]) != len(one.settings) {
				t.Errorf("%s, curves %d: %+v", one.query, i, p.w.next["chat"])
			}
		}
		want := []string{"", "h100 h100 h100 gpu", "h100"}[i]
		if got := strings.Join(units, " "); got != want {
			t.Errorf("curves %d: demand is in replicas of %s, want %s", i, got, want)
		}
	}
	p.asks("tokens service=chat", of("h100"), of("l4"))
	before := p.decided()
	look := func() *view.Outlook {
		p.w.readCurves(p.Context())
		p.w.readGateways(p.Context())
		return p.w.Outlook("chat")
	}
	p.learn(0.205)
	if look() != before {
		t.Error("curves that differ by little were brought into force")
	}
	p.learn(0.037)
	for p.Context().Err() == nil && look() == before { // the hour is decided in turns
	}
	p.w.o.Consul, p.w.curves = nil, map[string]curves{}
	p.decided()
	if reason := p.w.next["chat"][0].Reason; !strings.HasPrefix(reason, `by demand, because curves of "chat": they are in Consul, but this page runs without it`) {
		t.Errorf("without Consul: %s", reason)
	}
}
