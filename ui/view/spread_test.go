package view

import (
	"math"
	"testing"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

func TestSpreadsOfSeveralGateways(t *testing.T) {
	second := func(at int64, values ...float64) api.Latency {
		var s quantile.Sketch
		for _, v := range values {
			s.Add(v)
		}
		return api.Latency{Time: at, Total: s.Encode()}
	}
	one := api.Latencies{Series: []api.Latency{second(100, 1, 1, 1), second(101, 1)}}
	two := api.Latencies{Series: []api.Latency{second(101, 9)}}
	got, err := SpreadsOf([]api.Latencies{one, two}, 100, 100+Over+1)
	if err != nil {
		t.Fatal(err)
	}
	near := func(got, want float64) bool { return math.Abs(got-want) <= want*quantile.Accuracy*1.01 }
	if s := got[101].Total; s == nil || !near(s.P50, 1) || !near(s.P99, 1) && !near(s.P99, 9) || got[101].TTFT != nil {
		t.Errorf("%+v", got[101])
	}
	if s := got[100+Over].Total; s == nil || !near(s.P99, 1) && !near(s.P99, 9) {
		t.Errorf("the second 101 counts for %d seconds: %+v", Over, s)
	}
	if got[100+Over+1].Total != nil || len(got) != Over+1 {
		t.Errorf("%d seconds, the last %+v", len(got), got[100+Over+1])
	}
	if _, err := SpreadsOf([]api.Latencies{{Series: []api.Latency{{Time: 1, Total: []byte("x")}}}}, 0, 1); err == nil {
		t.Error("nonsense is read")
	}
	var m Memory
	m.FillSpreads(got)
	m.Fill([]api.Point{{Time: 101}})
	if s := m.Since(100, 102); s.Latency.P50[0] == nil || s.TTFT != nil || len(s.Latency.P99) != 2 {
		t.Errorf("%+v", s)
	}
}

func TestSharesOfTheLastMinute(t *testing.T) {
	answers := []api.Latencies{
		{Series: []api.Latency{{Time: 10, Served: map[string]int{"t4": 100}}, {Time: 50, Served: map[string]int{"h100": 2}}}},
		{Series: []api.Latency{{Time: 60, Served: map[string]int{"h100": 1, "t4": 1}}}},
	}
	got := shares(ServedOf(answers, 100))
	if len(got) != 2 || got["h100"] != 75 || got["t4"] != 25 {
		t.Errorf("%v", got)
	}
	if none := shares(ServedOf(answers, 1000)); len(none) != 0 {
		t.Errorf("%v", none)
	}
}
