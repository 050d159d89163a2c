package view

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/top"
)

func TestMemoryKeepsGapsAsGaps(t *testing.T) {
	var m Memory
	m.Fill([]api.Point{{Time: 100, Queued: 3}, {Time: 102, Queued: 5}})
	m.Fill([]api.Point{{Time: 100, Queued: 0}}) // a restarted gateway knows less
	m.Count(102, map[string]Stand{"t4": {Ready: 2}})
	s := m.Since(99, 102)
	text, err := json.Marshal(s.Queued)
	if err != nil || string(text) != "[3,null,5]" {
		t.Errorf("queued: %s", text)
	}
	if text, _ = json.Marshal(s.Ready["t4"]); string(text) != "[null,null,2]" {
		t.Errorf("ready: %s", text)
	}
	if m.Last() != 102 {
		t.Errorf("the last second is %d", m.Last())
	}
}

func TestMemoryForgetsAfterAnHour(t *testing.T) {
	var m Memory
	m.Fill([]api.Point{{Time: 5, Queued: 1}})
	m.Fill([]api.Point{{Time: 5 + Depth, Queued: 2}})
	m.Fill([]api.Point{{Time: 5, Queued: 9}}) // too old to be kept
	s := m.Since(0, 5+Depth)
	if len(s.Time) != Depth || s.Time[0] != 6 || *s.Queued[Depth-1] != 2 || s.Queued[0] != nil {
		t.Errorf("%d seconds from %d", len(s.Time), s.Time[0])
	}
}

// Replicas of thousands of services are counted every second, and seldom change.
func TestMemoryKeepsAlikeSecondsOnce(t *testing.T) {
	var m Memory
	for second := range int64(3 * Depth) {
		m.Count(second, map[string]Stand{"t4": {Ready: 2}})
	}
	first := reflect.ValueOf(m.ring[0].replicas).Pointer()
	for i := range m.ring {
		if by := m.ring[i].replicas; by["t4"].Ready != 2 || reflect.ValueOf(by).Pointer() != first {
			t.Fatalf("second %d has %v of its own", i, by)
		}
	}
	m.Count(3*Depth, map[string]Stand{"t4": {Ready: 3}})
	if s := m.Since(3*Depth-2, 3*Depth); *s.Ready["t4"][0] != 2 || *s.Ready["t4"][1] != 3 {
		t.Errorf("%v", s.Ready)
	}
}

func TestTogether(t *testing.T) {
	apart := MergeSeries([]api.Concurrency{
		{Series: []api.Point{{Time: 1, Queued: 1, Active: 1, Class: map[string]api.ClassPoint{"t4": {Active: 1}}}}},
		{Series: []api.Point{{Time: 1, Queued: 2, Active: 1, Class: map[string]api.ClassPoint{"t4": {Active: 1}}}, {Time: 2}}},
	})
	if len(apart) != 2 || apart[0].Queued != 3 || apart[0].Class["t4"].Active != 2 {
		t.Errorf("each for itself: %+v", apart)
	}
	whole := MergeSeries([]api.Concurrency{
		{Whole: true, Series: []api.Point{{Time: 1, Queued: 3, Active: 2}}},
		{Whole: true, Series: []api.Point{{Time: 1, Queued: 4, Active: 2}}},
	})
	if len(whole) != 1 || whole[0].Queued != 4 {
		t.Errorf("each of all: %+v", whole)
	}
}

func gpuWith(healthy bool) []Node {
	return []Node{{Node: top.Node{ID: "n", Name: "node", GPUs: []top.GPU{{
		Group: "t4-0", ID: "g", Healthy: healthy, Health: "it is lost",
		Slices: []top.Slice{{ID: "g::0", Healthy: healthy, Allocation: "a", Job: "chat"}, {ID: "g::1", Healthy: healthy, Allocation: "a", Job: "chat"}, {ID: "g::2", Healthy: healthy}},
	}}}}}
}

func TestHealthSaysSinceWhen(t *testing.T) {
	begin := time.Unix(1000, 0)
	h, seen := Health{}.Next(gpuWith(false), begin, true)
	if s := h.Of(gpuWith(false)[0])["g"]; s.Seen || !s.At.Equal(begin) || len(seen) != 0 {
		t.Errorf("what was so at the start began before: %+v %v", s, seen)
	}
	h, seen = h.Next(gpuWith(true), begin.Add(time.Minute), false)
	if len(h) != 0 || len(seen) != 1 || seen[0].Bad {
		t.Errorf("well again: %v %v", h, seen)
	}
	h, seen = h.Next(gpuWith(false), begin.Add(2*time.Minute), false)
	if s := h.Of(gpuWith(false)[0])["g"]; !s.Seen || len(seen) != 1 || !seen[0].Bad || seen[0].Text != "it is lost" {
		t.Errorf("lost: %v %v", h, seen)
	}
}

func TestClusterOf(t *testing.T) {
	nodes := gpuWith(false)
	nodes[0].Total, nodes[0].Free = 1, 0.25
	c := ClusterOf(Facts{Nodes: nodes})
	g := c.Nodes[0].GPUs[0]
	if len(g.Bar) != 2 || g.Bar[0].Slices != 2 || g.Bar[0].Job != "chat" || g.Bar[1].Colour != -1 || g.Health != "it is lost" {
		t.Errorf("%+v", g)
	}
	if c.Totals != (Totals{Nodes: 1, GPUs: 1, Unhealthy: 1, Capacity: 1, Free: 0.25}) {
		t.Errorf("%+v", c.Totals)
	}
}

func TestServiceOf(t *testing.T) {
	const ready, other = "aaaaaaaa-1111-4000-8000-000000000001", "aaaaaaaa-1111-4000-8000-000000000002"
	f := Facts{
		Services: []Service{{Name: "chat", Queued: 4, Active: map[string]int{"t4": 2}, Replicas: []api.Replica{{ID: "task-" + ready + "-http", Class: "t4", Slots: 4, Usable: 4, Rate: 2}}}},
		Allocs: []Alloc{
			{ID: ready, Job: "chat", Group: "t4", Node: "n1", Desired: "run", Client: "running", Class: "t4"},
			{ID: other, Job: "chat", Group: "t4", Node: "n2", Desired: "run", Client: "pending", Class: "t4", Events: []TaskEvent{{Text: "Pulling the image"}}},
			{ID: "x", Job: "else", Group: "g", Desired: "run", Client: "running"},
		},
		Changes: []Change{{Job: "chat", Group: "t4", From: 1, To: 2, Reason: "growing"}, {Job: "else", Group: "g"}},
		Splits:  map[string]map[string]float64{"chat": {"t4": 100}},
	}
	s := ServiceOf(f, "chat")
	if !s.Found || s.Brief.Queued != 4 || s.Brief.Active != 2 || s.Brief.Ready != 1 || s.Brief.Starting != 1 || s.Brief.Output != -1 {
		t.Errorf("%+v", s.Brief)
	}
	if len(s.Replicas) != 2 || s.Replicas[0].Node != "n1" || s.Replicas[1].State != "starting" || s.Replicas[1].Text != "Pulling the image" {
		t.Errorf("%+v", s.Replicas)
	}
	if len(s.Changes) != 1 || s.Changes[0].Reason != "growing" || len(s.Classes) != 1 || *s.Classes[0].Routed != 100 {
		t.Errorf("%+v %+v", s.Changes, s.Classes)
	}
	if ServiceOf(f, "none").Found {
		t.Error("a service that nobody has is found")
	}
}

// Nomad grants any slices of a GPU; in its bar those of one allocation are one part.
func TestSlicesOfAnAllocationAreOnePart(t *testing.T) {
	got := bar([]top.Slice{
		{ID: "0", Healthy: true}, {ID: "1", Healthy: true, Job: "chat", Allocation: "b"}, {ID: "2", Healthy: true, Job: "chat", Allocation: "a"},
		{ID: "3"}, {ID: "4", Healthy: true, Job: "chat", Allocation: "b"}, {ID: "5", Healthy: true},
	}, map[string]int{"chat": 0})
	want := []Part{{Slices: 1, Alloc: "a", Job: "chat"}, {Slices: 2, Alloc: "b", Job: "chat"}, {Slices: 1, Colour: -1, Bad: true}, {Slices: 2, Colour: -1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
