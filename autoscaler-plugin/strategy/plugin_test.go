package strategy

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

func plugin(t *testing.T) *Plugin {
	t.Helper()
	p := New(hclog.NewNullLogger())
	if err := p.SetConfig(map[string]string{"learn_coldstart": "false", "learn_speed": "false", "nomad_address": "http://x"}); err != nil {
		t.Fatal(err)
	}
	return p
}

func eval(demand float64, seconds int, config map[string]string) *sdk.ScalingCheckEvaluation {
	e := &sdk.ScalingCheckEvaluation{Action: &sdk.ScalingAction{}, Check: &sdk.ScalingPolicyCheck{
		Name: "demand", Query: "concurrency service=llm", QueryWindow: 15 * time.Minute,
		Strategy: &sdk.ScalingPolicyStrategy{Name: Name, Config: config},
	}}
	start := time.Unix(1_700_000_000, 0)
	for i := range seconds {
		e.Metrics = append(e.Metrics, sdk.TimestampedMetric{Timestamp: start.Add(time.Duration(i) * time.Second), Value: demand})
	}
	return e
}

func TestTheDirectionIsAlwaysSet(t *testing.T) {
	for _, c := range []struct {
		count     int64
		want      int64
		direction sdk.ScaleDirection
	}{
		{0, 5, sdk.ScaleDirectionUp}, {5, 5, sdk.ScaleDirectionNone}, {20, 7, sdk.ScaleDirectionDown},
	} {
		got, err := plugin(t).Run(eval(18, 900, map[string]string{"slots": "4"}), c.count)
		if err != nil || got.Action.Count != c.want || got.Action.Direction != c.direction || got.Action.Reason == "" {
			t.Errorf("from %d: got %+v, %v, want %d %s", c.count, got.Action, err, c.want, c.direction)
		}
	}
}

func TestTheAnswerDoesNotDependOnThePluginsPast(t *testing.T) {
	old := plugin(t)
	for n := 1; n < 900; n += 100 {
		if _, err := old.Run(eval(40, n, map[string]string{"slots": "4"}), 3); err != nil {
			t.Fatal(err)
		}
	}
	a, err := old.Run(eval(18, 900, map[string]string{"slots": "4"}), 9)
	b, errNew := plugin(t).Run(eval(18, 900, map[string]string{"slots": "4"}), 9)
	if err != nil || errNew != nil || a.Action.Count != b.Action.Count || a.Action.Reason != b.Action.Reason {
		t.Errorf("old %+v %v, new %+v %v", a.Action, err, b.Action, errNew)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	short := eval(1, 900, map[string]string{"slots": "4"})
	short.Check.QueryWindow = time.Minute
	for want, e := range map[string]*sdk.ScalingCheckEvaluation{
		"query_window is 1m0s: want at least 6m0s": short,
		`check "demand": slots is missing`:         eval(1, 900, nil),
		`unknown setting "target"`:                 eval(1, 900, map[string]string{"slots": "4", "target": "3"}),
		"the demand series is empty":               eval(1, 0, map[string]string{"slots": "4"}),
		"the demand series has an invalid value":   eval(-1, 9, map[string]string{"slots": "4"}),
	} {
		if got, err := plugin(t).Run(e, 1); got != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
	if _, err := plugin(t).Run(&sdk.ScalingCheckEvaluation{}, 1); err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("a question without a check: got %v", err)
	}
}

const classes = "h100 slots=8 cost=8 max=4, t4 slots=2 cost=1 max=8 speed=0.1"

func ask(query string, settings map[string]string) *sdk.ScalingCheckEvaluation {
	e := eval(18, 900, settings)
	e.Check.Query = query
	return e
}

func TestALoadIsPlannedForInItsOwnUnit(t *testing.T) {
	own := map[string]string{"class": "h100", "classes": classes}
	for name, query := range map[string]string{
		"of aliquot-apm":              "load service=llm classes='" + classes + "'",
		"the same, written otherwise": "load service=llm classes='h100 max=4 slots=8 speed=1 cost=8,t4 cost=1 slots=2 max=8 speed=0.10'",
		"of another APM":              "sum(load)",
	} {
		got, err := plugin(t).Run(ask(query, own), 0)
		// 18 / 0.9 = 20 slots of h100 need 3 replicas. With 2 replicas, all of t4 would still leave
		// 2.4 slots missing.
		if err != nil || got.Action.Count != 3 || got.Action.Meta["aliquot.plan.t4"] != 0 || got.Action.Meta["aliquot.speed.t4"] != 0.1 || !strings.Contains(got.Action.Reason, "load 18.0") {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	part := ask("load service=llm class=t4 classes='"+classes+"'", map[string]string{"slots": "2"})
	if got, err := plugin(t).Run(part, 0); err != nil || got.Action.Count != 10 {
		t.Errorf("the part of a class, in its own slots: got %+v, %v", got, err)
	}
}

func TestMistakesOfUnitsAreNamed(t *testing.T) {
	const load = "load service=llm classes='" + classes + "'"
	own := map[string]string{"class": "t4", "classes": classes}
	for want, e := range map[string]*sdk.ScalingCheckEvaluation{
		"counts all slots equally: ask for load":                                              ask("concurrency service=llm", own),
		"different classes: give both the same text":                                          ask(load, map[string]string{"class": "t4", "classes": strings.Replace(classes, "0.1", "0.2", 1)}),
		"have different classes":                                                              ask(load, map[string]string{"slots": "2"}),
		"the query is for nodes instead of the demand of a service":                           ask("nodes class=t4", map[string]string{"slots": "2"}),
		"the query counts tokens but the strategy plans in requests: ask for \"load service=": ask("tokens service=llm", map[string]string{"slots": "2"}),
		"the query counts tokens but":                                                         ask("tokens service=llm class=t4", own),
		"leave class out of the query":                                                        ask("load service=llm class=t4 classes='"+classes+"'", map[string]string{"class": "t4", "classes": strings.Replace(classes, " speed=0.1", "", 1)}),
		`speed is "no": want a number from 0.01 to 100`:                                       ask(load, map[string]string{"class": "t4", "classes": strings.Replace(classes, "0.1", "no", 1)}),
	} {
		if got, err := plugin(t).Run(e, 1); got != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
}

// A site without Consul has no Consul settings, or wrong ones.
func TestConsulIsNotNeededForWhatIsOff(t *testing.T) {
	settings := map[string]string{"learn_coldstart": "false", "learn_speed": "false", "consul_token_file": "/none"}
	if err := New(hclog.NewNullLogger()).SetConfig(settings); err != nil {
		t.Error(err)
	}
}
