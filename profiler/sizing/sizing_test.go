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

// The choice of the cheapest size uses learned and benchmarked curves. A size that cannot hold the
// need is never chosen.
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
	q := Question{Service: "chat", Objective: learned.Objective{TTFT: 2, TPOT: 0.1}, Quantile: 0.99, Cost: map[string]float64{"l4": 1}, Rate: 1, MaxTokens: 8000}
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
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "the running size t4 1of1 has no measurements yet") {
		t.Errorf("%q", a.Notes)
	}
}

// A server without a cache of fixed size needs at least the memory that it uses now.
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
	clear(seconds)
	seconds[0] = 60
	if got := Busiest(seconds); got != 1 {
		t.Errorf("60 in the first second are %v", got)
	}
	if got := Busiest([]float64{3, 1}); got != 2 {
		t.Errorf("two seconds are %v", got)
	}
	if Busiest(nil) != 0 {
		t.Error("nothing came")
	}
}

// Classes with different requests are compared with the same mean request.
func TestClassesAreComparedByTheSameRequest(t *testing.T) {
	rates := learned.NewRates(noon)
	short, long := curve(1, 85_000, 300), curve(1, 85_000, 100)
	short.Prompt, long.Prompt = 100, 900
	for class, c := range map[string]learned.Curve{"l4": short, "h100": long} {
		rates.Classes[class] = learned.Class{Rate: 1, Slots: 8, Replica: 8, Samples: c.Samples, Tokens: map[string]learned.Curve{"20of20": c}}
	}
	q := Question{Service: "chat", Objective: learned.Objective{TTFT: 2, TPOT: 0.1}, Quantile: 0.99}
	for range 20 {
		a := Decide(q, []learned.Rates{rates}, nil, nil, noon)
		if a.Prompt != 300 || a.Output != 100 {
			t.Fatalf("the request is of %v and %v tokens", a.Prompt, a.Output)
		}
		if len(a.Choices) != 2 || a.Choices[0].Rate != a.Choices[1].Rate || a.Choices[0].Class != "h100" {
			t.Fatalf("two classes of the same speed: %+v", a.Choices)
		}
	}
}

// A job has one count for all classes that serve, so a size must work on all of them.
func TestASizeFitsAllClassesThatServe(t *testing.T) {
	whole, half, small := curve(1, 85_000, 0), curve(1.1, 40_000, 0), curve(2, 3000, 0)
	profile := func(class, size string, c *learned.Curve) learned.Profile {
		return learned.Profile{Measured: noon, Class: class, Slices: size, Answers: 400, Curve: c}
	}
	profiles := []learned.Profile{
		profile("h100", "10of20", &whole), profile("h100", "5of20", &whole), profile("h100", "2of20", &half),
		profile("l4", "10of20", &half), profile("l4", "5of20", &small),
	}
	q := Question{Service: "chat", Objective: learned.Objective{TTFT: 2, TPOT: 0.1}, Quantile: 0.99, MaxTokens: 8000}
	running := []Running{{Class: "h100", Slices: "10of20", Replicas: 1}, {Class: "l4", Slices: "10of20", Replicas: 2}}
	a := Decide(q, nil, profiles, running, noon)
	for slices, want := range map[int]string{
		10: "", 5: "its cache holds 3000 tokens, a request may have 8000", 2: "this size has no measurements:",
	} {
		i := 0
		for a.Choices[i].Class != "h100" || a.Choices[i].Slices != slices {
			i++
		}
		err := a.Fits(a.Choices[i])
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d slices: %v, want %q", slices, err, want)
		}
	}
	if a.Replicas() != 3 {
		t.Errorf("%d replicas", a.Replicas())
	}
}
