package view

import (
	"testing"
	"time"
)

func TestEventsOf(t *testing.T) {
	now := time.Unix(100000, 0)
	f := Facts{
		At: now, Seen: []Seen{{At: now.Add(-time.Minute), Node: "n1", GPU: "t4-0", Bad: true, Text: "it is lost"}, {At: now.Add(-2 * time.Hour), Node: "n1"}},
		Changes: []Change{{At: now.Add(-2 * time.Minute), Job: "chat", Group: "t4", From: 1, To: 2, Reason: "growing"}},
		Allocs: []Alloc{{ID: "a", Job: "chat", Group: "t4", Node: "n1", Slices: 5, Events: []TaskEvent{
			{At: now, Type: "Driver", Text: "GPU attachment verified"}, {At: now, Type: "Started", Text: "Task started by client"},
			{At: now.Add(-3 * time.Minute), Type: "Terminated", Text: "Exit Code: 1"}, {At: now, Type: "Terminated", Text: "Exit Code: 0"},
		}}},
	}
	var got []string
	for _, e := range EventsOf(f).Events {
		got = append(got, e.Kind+": "+e.Text)
	}
	want := []string{"task: GPU attachment verified", "health: it is lost", "scaling: 1 → 2: growing", "task: Exit Code: 1"}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestScalingOf(t *testing.T) {
	demand := 4.6
	f := Facts{
		Policies: []Policy{
			{Service: "chat", Job: "chat", Group: "t4", Enabled: true, Max: 4, Count: 2, Settings: map[string]string{"class": "t4", "classes": "t4 slots=2 cost=1.5 max=4"}, Rates: map[string]float64{"t4": 0.5}},
			{Service: "asr", Job: "asr", Group: "g", Settings: map[string]string{}},
		},
		Changes: []Change{{Job: "chat", Group: "t4", From: 3, To: 2, Demand: &demand}, {Job: "chat", Group: "t4", From: 0, To: 3}, {Job: "other", Group: "g"}},
	}
	s := ScalingOf(f, "chat")
	if len(s.Policies) != 2 || s.Policies[0].Service != "asr" || s.Policies[0].Cost != -1 || s.Policies[0].Demand != -1 {
		t.Fatalf("%+v", s.Policies)
	}
	if p := s.Policies[1]; p.Cost != 3 || p.Demand != demand || p.Plan != 2 || p.Speed != 0.5 {
		t.Errorf("%+v", p)
	}
	if len(s.Actions) != 2 || s.Actions[0].Service != "chat" {
		t.Errorf("%+v", s.Actions)
	}
}
