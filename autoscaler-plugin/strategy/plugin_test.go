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
	if err := p.SetConfig(map[string]string{"learn_coldstart": "false", "nomad_address": "http://x"}); err != nil {
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
		"query_window is 1m0s: want at least 6m0s":  short,
		`check "demand": slots is missing`:          eval(1, 900, nil),
		`unknown setting "target"`:                  eval(1, 900, map[string]string{"slots": "4", "target": "3"}),
		"the series of demand is empty":             eval(1, 0, map[string]string{"slots": "4"}),
		"the series of demand holds a value that i": eval(-1, 9, map[string]string{"slots": "4"}),
	} {
		if got, err := plugin(t).Run(e, 1); got != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
	if _, err := plugin(t).Run(&sdk.ScalingCheckEvaluation{}, 1); err == nil || !strings.Contains(err.Error(), "internal fault") {
		t.Errorf("a question without a check: got %v", err)
	}
}
