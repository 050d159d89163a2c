package view

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/strategy"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

const classes = "h100 slots=8 cost=6 max=3, t4 slots=2 cost=1 max=9"

// policies are those of one service on two classes, by load.
func policies(t *testing.T) []Policy {
	t.Helper()
	text := "load service=chat classes='" + classes + "'"
	q, err := query.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var out []Policy
	for _, class := range []string{"t4", "h100"} {
		out = append(out, Policy{
			Service: "chat", Job: "chat", Group: class, Query: q, Window: 15 * time.Minute, Enabled: true, Max: 9, Count: 2, SpeedsFor: scale.Always,
			Settings: map[string]string{"class": class, "classes": classes, "coldstart": "30s"}, Rates: map[string]float64{"h100": 4, "t4": 1},
		})
	}
	return out
}

// day is the demand of so many seconds before now: a random walk.
func day(now int64, seconds int64) []api.Point {
	var out []api.Point
	random, demand := rand.New(rand.NewPCG(1, 2)), 20.0
	for t := now - seconds; t < now; t++ {
		demand = max(0, demand+random.Float64()*2-1)
		out = append(out, api.Point{Time: t, Queued: demand / 2, Active: demand / 2, Class: map[string]api.ClassPoint{"h100": {Active: demand / 4}, "t4": {Active: demand / 4}}})
	}
	return out
}

func never() bool { return false }

// The page decides what the plugin decides, of the same demand: count and reason.
func TestNextIsWhatTheStrategyDecides(t *testing.T) {
	plugin := strategy.New(hclog.NewNullLogger())
	if err := plugin.SetConfig(map[string]string{"learn_coldstart": "false", "learn_speed": "false"}); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	var m Memory
	m.Fill(day(now.Unix(), 1200))
	var ps []Policy
	for _, p := range policies(t) { // the plugin that learns nothing takes the speeds of the text
		p.Rates = nil
		ps = append(ps, p)
	}
	var r Replay
	if r.Continue(ps, &m, now.Unix(), never) {
		t.Fatal("steps are missing")
	}
	next := r.Next(&m, now)
	if len(next) != 2 {
		t.Fatalf("%+v, %s", next, r.problem)
	}
	for i, n := range next { // in order of the groups
		var metrics sdk.TimestampedMetrics
		for _, p := range day(now.Unix(), 1200)[300:] {
			metrics = append(metrics, sdk.TimestampedMetric{Timestamp: time.Unix(p.Time, 0), Value: r.policies[i].value(&p)})
		}
		eval := &sdk.ScalingCheckEvaluation{Metrics: metrics, Check: &sdk.ScalingPolicyCheck{
			Query: "load service=chat classes='" + classes + "'", QueryWindow: 15 * time.Minute, Strategy: &sdk.ScalingPolicyStrategy{Config: r.policies[i].Settings},
		}}
		got, err := plugin.Run(eval, 2)
		if err != nil || int(got.Action.Count) != n.Count || got.Action.Reason != n.Reason || n.Set != 2 {
			t.Errorf("%s: the page says %+v, the plugin %+v, %v", n.Group, n, got, err)
		}
	}
}

// What is decided in turns is what is decided at once, and goes on where it was.
func TestReplayGoesOn(t *testing.T) {
	now := int64(1_800_000_000)
	all := day(now+60, Depth)
	decided := func(stop func() bool, ends ...int64) *Outlook {
		var m Memory
		var r Replay
		m.Fill(all[:len(all)-60])
		for _, end := range ends {
			m.Fill(all[:len(all)-int(now+60-end)])
			m.Count(end-5, map[string]Stand{"h100": {Ready: 1, Starting: 1}, "t4": {Ready: 3}})
			for r.Continue(policies(t), &m, end, stop) {
			}
		}
		return r.Outlook("chat", &m, time.Unix(now, 0))
	}
	turn := 0
	whole := decided(never, now+60)
	parts := decided(func() bool { turn++; return turn%7 == 0 }, now, now+30, now+60)
	tail := func(o *Outlook) string {
		text, err := json.Marshal([]any{o.Time[len(o.Time)-300:], o.Planned[len(o.Time)-300:], o.Forecast[len(o.Time)-300:], o.Classes[0].Would[len(o.Time)-300:], o.Classes[1].Would[len(o.Time)-300:]})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if tail(whole) != tail(parts) {
		t.Errorf("at once:  %.400s\nin turns: %.400s", tail(whole), tail(parts))
	}
	last := len(whole.Time) - 1
	if whole.Classes[0].Name != "h100" || *whole.Classes[0].Was[last] != 2 || *whole.Classes[1].Was[last] != 3 || *whole.Cost.Was[last] != 15 || whole.Classes[0].Was[0] != nil || whole.Cost.Was[0] != nil {
		t.Errorf("what was: %+v, cost %+v", whole.Classes, whole.Cost)
	}
	if would := *whole.Classes[0].Would[last]*6 + *whole.Classes[1].Would[last]; *whole.Cost.Would[last] != would {
		t.Errorf("cost %g, want %g", *whole.Cost.Would[last], would)
	}
}

// What was not measured is a gap, and what was decided before it is kept over it.
func TestReplayKeepsGaps(t *testing.T) {
	now := int64(1_800_000_000)
	var m Memory
	all := day(now, 600)
	m.Fill(all[:300])
	m.Fill(all[330:])
	var r Replay
	r.Continue(policies(t), &m, now, never)
	o := r.Outlook("chat", &m, time.Unix(now, 0))
	at := len(o.Time) - 1 - int((now-5-(now-285))/OutlookStep) // 15 s into the gap
	for _, column := range [][]*float64{o.Demand, o.Planned, o.Forecast, o.Classes[0].Would, o.Cost.Would} {
		if column[at] != nil || column[0] != nil {
			t.Errorf("a value in a gap: %v, %v", column[at], column[0])
		}
	}
	if o.Demand[at-10] == nil || o.Demand[len(o.Time)-1] == nil || o.Planned[at-10] == nil {
		t.Errorf("gaps beside the gap: %v", o.Demand)
	}
	if len(r.Next(&m, time.Unix(now+stale+1, 0))) != 0 {
		t.Error("something is decided by old demand")
	}
}

// Where the last step is older than what is remembered, as after gateways that were away or
// a clock that was set forward, it begins as if nothing had been decided.
func TestReplayAfterAnHourOfSilence(t *testing.T) {
	now := int64(1_800_000_000)
	var m Memory
	var r Replay
	if r.Continue(policies(t), &m, now, never); r.Changed() {
		t.Error("there is an outlook of a service that no gateway has told of")
	}
	m.Fill(day(now, 100))
	r.Continue(policies(t), &m, now, never)
	now += 3 * Depth
	m.Fill(day(now, 100))
	r.Continue(policies(t), &m, now, never)
	if o := r.Outlook("chat", &m, time.Unix(now, 0)); len(o.Time) == 0 || o.Demand[len(o.Time)-1] == nil {
		t.Errorf("nothing is decided after the silence: %+v", o)
	}
}

// A policy that the page cannot repeat is said, and nothing is drawn of it.
func TestPoliciesThatAreNotRepeated(t *testing.T) {
	for what, change := range map[string]func(*Policy){
		"its query for attained is not supported here": func(p *Policy) {
			p.Settings["objective"], p.Query.Metric = "ttft=2s", query.Attained
		},
		"unknown word \"fast\" in the objective":     func(p *Policy) { p.Settings["objective"] = "fast" },
		"at least":                                   func(p *Policy) { p.Window = time.Minute },
		"its query for tokens is not supported here": func(p *Policy) { p.Query = query.Query{Metric: query.Tokens, Service: "chat"} },
		"unknown setting":                            func(p *Policy) { p.Settings["colour"] = "red" },
		"no enabled scaling policy":                  func(p *Policy) { p.Enabled = false },
		"its query":                                  func(p *Policy) { p.QueryProblem = "its query is wrong" },
		"have different classes":                     func(p *Policy) { p.Query.Classes = p.Query.Classes[:1] },
		"counts all slots equally": func(p *Policy) {
			p.Query.Metric = query.Concurrency
			p.Settings["classes"] += ", l4 slots=1 max=1 speed=2"
		},
	} {
		p := policies(t)[0]
		change(&p)
		var m Memory
		m.Fill(day(1_800_000_000, 100))
		var r Replay
		r.Continue([]Policy{p}, &m, 1_800_000_000, never)
		o := r.Outlook("chat", &m, time.Unix(1_800_000_000, 0))
		if !strings.Contains(o.Problem, what) || len(o.Time) != 0 || len(r.Next(&m, time.Unix(1_800_000_000, 0))) != 0 {
			t.Errorf("want %q: %+v", what, o)
		}
	}
}

// What came counts from when all gateways tell of it, and what waits is that of all of them.
func TestTrafficIsThatOfAllGateways(t *testing.T) {
	const now = 1_800_000_000
	told := func(from int64, whole bool) api.Concurrency {
		a := api.Concurrency{Whole: whole}
		for at := from; at < now; at++ {
			if at%100 != 0 || at == from { // a second that nobody told of
				a.Series = append(a.Series, api.Point{Time: at, Queued: 1, QueuedTokens: 700, Tokens: &api.Tokens{Arrived: 600, Met: 1}})
			}
		}
		return a
	}
	p := policies(t)[0]
	p.Query.Metric, p.Settings["objective"] = query.Concurrency, "ttft=2s"
	p.Curves = &objective.Known{Curves: objective.Sizes[learned.Curve]{"h100": {"1of1": {Prefill: 36e-6, A: 8e-3, Prompt: 1000, Output: 200, KV: 450_000, Samples: 90}}}}
	for _, whole := range []bool{true, false} {
		answers := []api.Concurrency{told(now-600, whole), told(now-150, whole)}
		var m Memory
		m.Answered(AnsweredBy(answers))
		m.Fill(MergeSeries(answers))
		m.Answered(now - 2) // as each later answer says
		var r Replay
		r.Continue([]Policy{p}, &m, now, never)
		of := r.policies[0]
		got := of.force.Traffic(of.traffic(now-1, 900), of.waits[(now-1)%Depth])
		waiting := map[bool]float64{true: 700.0 / 1200, false: 1400.0 / 1200}[whole]
		if len(got.Arrived) != 150 || got.Arrived[0] != 1 || got.Arrived[149] != 1 || got.Waiting != waiting {
			t.Errorf("whole %t: %d seconds from %g on, %g wait", whole, len(got.Arrived), got.Arrived[0], got.Waiting)
		}
	}
}
