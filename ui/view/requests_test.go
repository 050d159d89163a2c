package view

import (
	"math"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

func TestRequestsOf(t *testing.T) {
	alloc := "a0000001-1111-4000-8000-000000000001"
	now := time.Unix(1000, 0)
	f := Facts{
		At: now, Allocs: []Alloc{{ID: alloc, Node: "rack-1"}},
		Requests: api.Requests{
			Slow:   []api.Request{{Service: "chat", Began: now, Outcome: "served", Status: 200, Replica: "_nomad-task-" + alloc + "-http", Total: 1500, Waited: 1000, Upstream: 400, Answer: 100}},
			Failed: []api.Request{{Service: "code", Began: now, Outcome: "queue_full", Status: 503, Total: 1, Received: 1}, {Service: "chat", Outcome: "served", Status: 500}},
		},
	}
	all := RequestsOf(f, "")
	if len(all.Slow) != 1 || len(all.Failed) != 2 || len(all.Services) != 2 {
		t.Fatalf("%+v", all)
	}
	row := all.Slow[0]
	sum := 0.0
	for _, p := range row.Parts {
		sum += p.Seconds
	}
	if row.Node != "rack-1" || row.Alloc != alloc || math.Abs(sum-row.Total) > 1e-9 || row.Total != 1.5 || row.Text != "" {
		t.Errorf("%+v", row)
	}
	if all.Failed[0].Text == "" || all.Failed[1].Text == "" {
		t.Errorf("failures without a reason: %+v", all.Failed)
	}
	if one := RequestsOf(f, "code"); len(one.Slow) != 0 || len(one.Failed) != 1 || len(one.Services) != 2 {
		t.Errorf("%+v", one)
	}
}
