package sizing

import (
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/learned"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func curve(slow, kv, samples float64) learned.Curve {
	return learned.Curve{Prefill: 1e-4 * slow, A: 0.02 * slow, B: 2e-5, C: 1e-7, Prompt: 500, Output: 100, KV: kv, Samples: samples}
}

// The cheapest size follows from what is learned and what was benchmarked; a size that
// cannot hold what is needed never does.
func TestEvidenceFromBothKinds(t *testing.T) {
	rates := learned.NewRates(noon.Add(-3 * time.Minute))
	rates.Classes["l4"] = learned.Class{Rate: 1, Slots: 8, Replica: 8, Samples: 500, Tokens: map[string]learned.Curve{
		"20of20": curve(1, 85_000, 500), "15of20": curve(1.2, 60_000, 3),
	}}
	half, quarter := curve(1.6, 30_000, 0), curve(2, 3000, 0)
	profiles := []learned.Profile{
		{Measured: noon.Add(-24 * time.Hour), Class: "l4", Slices: "10of20", Driver: "550.90", Answers: 400, Curve: &half},
		{Measured: noon.Add(-24 * time.Hour), Class: "l4", Slices: "5of20", Answers: 400, Curve: &quarter},
	}
	running := []Running{{Class: "l4", Slices: "20of20", Replicas: 2}, {Class: "t4", Slices: "1of1", Replicas: 1}}
	q := Question{Service: "chat", Objective: learned.Objective{TTFT: 2, TPOT: 0.1}, Quantile: 0.99, Cost: map[string]float64{"l4": 1}, Rate: 1, Longest: 8000}
	a := Decide(q, []learned.Rates{rates}, profiles, running, noon)
	if len(a.Choices) != 3 || a.Choices[0].Slices != 10 || a.Choices[0].Replicas != 1 || a.Choices[0].Cost != 0.5 {
		t.Fatalf("%+v", a.Choices)
	}
	for i, want := range []string{"benchmarked 2026-05-31, driver 550.90", "500 requests, published 3m0s ago", "benchmarked 2026-05-31"} {
		if a.Choices[i].From != want {
			t.Errorf("%d is from %q, want %q", i, a.Choices[i].From, want)
		}
	}
	if last := a.Choices[2]; last.Slices != 5 || !strings.Contains(last.Refused, "its cache holds 3000 tokens, a request may have 8000") {
		t.Errorf("%+v", last)
	}
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "nothing is known of t4 1of1, which serves") {
		t.Errorf("%q", a.Notes)
	}
}

// A server without a cache of a fixed size needs at least the memory that it takes now.
func TestASizeHoldsWhatReplicasTake(t *testing.T) {
	half, whole := curve(1.1, 0, 0), curve(1, 0, 0)
	profiles := []learned.Profile{
		{Measured: noon, Class: "l4", Slices: "10of20", Answers: 400, Curve: &half}, {Measured: noon, Class: "l4", Slices: "20of20", Answers: 400, Curve: &whole},
	}
	q := Question{Service: "chat", Objective: learned.Objective{TTFT: 2, TPOT: 0.1}, Quantile: 0.99, Memory: map[string]float64{"l4": 23_000}}
	for use, want := range map[float64]int{0: 10, 11_000: 10, 12_000: 20} {
		a := Decide(q, nil, profiles, []Running{{Class: "l4", Slices: "20of20", Replicas: 1, Use: Use{Memory: use}}}, noon)
		if a.Choices[0].Slices != want || a.Choices[0].Refused != "" {
			t.Errorf("replicas take %v MiB: %+v", use, a.Choices)
		}
	}
}

func TestTheBusiestMinute(t *testing.T) {
	seconds := make([]float64, 300)
	for i := 100; i < 130; i++ {
		seconds[i] = 60
	}
	if got := Busiest(seconds); got != 30 {
		t.Errorf("half a minute of 60 a second is %v", got)
	}
	if Busiest(nil) != 0 {
		t.Error("nothing came")
	}
}
