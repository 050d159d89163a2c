package coldstart

import (
	"testing"
	"time"
)

func TestP95IsThatOfTheSlowestClassThatIsKnown(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var samples []Sample
	add := func(class string, age time.Duration, seconds ...float64) {
		for _, s := range seconds {
			samples = append(samples, Sample{At: now.Add(-age), Class: class, Seconds: s})
		}
	}
	if _, ok := P95(samples, now); ok {
		t.Error("a value out of nothing")
	}
	add("h100", time.Hour, 10, 12)
	if _, ok := P95(samples, now); ok {
		t.Error("two samples are believed")
	}
	add("h100", time.Hour, 11)
	add("l4", 8*24*time.Hour, 500, 500, 500, 500) // too old
	if p95, ok := P95(samples, now); !ok || p95 != 12*time.Second {
		t.Errorf("got %v, want the largest of three", p95)
	}
	add("t4", time.Minute, 40, 50, 60)
	if p95, _ := P95(samples, now); p95 != 60*time.Second {
		t.Errorf("got %v, want that of the slower class", p95)
	}
	add("broken", time.Minute, -5, 0, 1e300, 1e300, 7200)
	add("t4", -8*24*time.Hour, 900, 900, 900) // by a clock that was wrong
	if p95, _ := P95(samples, now); p95 != 60*time.Second {
		t.Errorf("got %v out of what cannot be", p95)
	}
	samples = nil
	for i := range 100 {
		add("h100", time.Hour, float64(i+1))
	}
	if p95, _ := P95(samples, now); p95 != 95*time.Second {
		t.Errorf("of 1..100: got %v, want 95s", p95)
	}
}

func TestNomadServiceIDs(t *testing.T) {
	const id = "_nomad-task-5d3c9a1e-1111-2222-3333-444455556666-server-app-http"
	if got := nomadService.FindStringSubmatch(id); got == nil || got[1] != "5d3c9a1e-1111-2222-3333-444455556666" {
		t.Errorf("got %v", got)
	}
	if got := nomadService.FindStringSubmatch("app-1"); got != nil {
		t.Errorf("got %v", got)
	}
}
