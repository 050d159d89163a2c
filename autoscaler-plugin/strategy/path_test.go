package strategy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// both makes each decision with the simulation's policy and with the plugin, as the agent does for
// each class, and compares the results.
type both struct {
	*simulate.PolicyScaler
	t        *testing.T
	plugin   *Plugin
	settings []map[string]string
	query    string
	asked    int
}

func (b *both) Decide(o simulate.Observation) []int {
	counts := b.PolicyScaler.Decide(o)
	if len(o.Demand) == 0 {
		return counts
	}
	for c, settings := range b.settings {
		check := &sdk.ScalingPolicyCheck{Query: b.query, QueryWindow: b.QueryWindow, Strategy: &sdk.ScalingPolicyStrategy{Config: settings}}
		e := &sdk.ScalingCheckEvaluation{Check: check, Metrics: b.metrics(o)}
		got, err := b.plugin.Run(e, int64(o.Desired[c]))
		if err != nil {
			b.t.Fatal(err)
		}
		if got.Action.Count != int64(counts[c]) {
			b.t.Fatalf("at %s, class %d set to %d: the strategy says %d (%s), the simulation %d",
				o.Now, c, o.Desired[c], got.Action.Count, got.Action.Reason, counts[c])
		}
	}
	b.asked++
	return counts
}

// metrics returns what aliquot-apm would answer.
func (b *both) metrics(o simulate.Observation) (out sdk.TimestampedMetrics) {
	start := time.Unix(1_700_000_000, 0)
	from := max(0, len(o.Demand)-int(b.QueryWindow/simulate.Step))
	for i := from; i < len(o.Demand); i++ {
		byClass := map[string]float64{}
		for c, class := range b.Classes {
			byClass[class.Name] = o.Active[c][i]
		}
		value := scale.Load(o.Demand[i], 0, byClass, b.Classes)
		out = append(out, sdk.TimestampedMetric{Timestamp: start.Add(time.Duration(i) * simulate.Step), Value: value})
	}
	return out
}

// waves returns a demand that rises and falls, with bursts.
func waves() (trace []simulate.Request) {
	random := rand.New(rand.NewPCG(1, 2))
	for at := time.Duration(0); at < 25*time.Minute; {
		rate := 2 + 1.5*float64(at%(10*time.Minute))/float64(time.Minute)
		if at%(7*time.Minute) < 10*time.Second {
			rate *= 4
		}
		at += time.Duration(random.ExpFloat64() / rate * float64(time.Second))
		trace = append(trace, simulate.Request{At: at, Service: time.Duration(1+random.IntN(3)) * time.Second})
	}
	return trace
}

// The strategy and the simulation make the same decision at every step of a trace.
func TestTheStrategyAndTheSimulationAgree(t *testing.T) {
	for query, texts := range map[string][]map[string]string{
		"concurrency service=llm": {{"slots": "4", "coldstart": "45s", "sleep": "1"}},
		"load service=llm classes='" + classes + "'": {
			{"classes": classes, "class": "h100", "coldstart": "45s"}, {"classes": classes, "class": "t4", "coldstart": "45s"},
		},
	} {
		config, err := scale.ParseConfig(texts[0])
		if err != nil {
			t.Fatal(err)
		}
		scaler := &simulate.PolicyScaler{Policy: config.Policy, Classes: config.Classes, QueryWindow: 15 * time.Minute, Every: time.Second}
		b := &both{PolicyScaler: scaler, t: t, plugin: plugin(t), settings: texts, query: query}
		var replicas []simulate.Class
		for _, class := range config.Classes {
			replicas = append(replicas, simulate.Class{Name: class.Name, Slots: class.Slots, Speed: class.Speed, ColdStart: 45 * time.Second})
			if class.Speed == 0 {
				replicas[len(replicas)-1].Speed = 1
			}
		}
		r := simulate.Run(simulate.Config{Classes: replicas}, waves(), b)
		if b.asked < 1400 || r.ReplicaTime[0] == 0 {
			t.Errorf("%s: only %d decisions were compared: %s", query, b.asked, fmt.Sprint(r.ReplicaTime))
		}
	}
}
