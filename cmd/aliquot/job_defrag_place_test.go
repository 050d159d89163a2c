package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
)

// A move is planned as a job of its own, with one allocation on the node that it would
// go to; it is none where Nomad finds no place there, unless a move before it makes room,
// and where the job wants its allocations on different nodes.
func TestAMoveIsPlanned(t *testing.T) {
	type held = account.Held
	apart := []*nomad.Constraint{{Operand: nomad.ConstraintDistinctHosts}}
	off := []*nomad.Constraint{{Operand: nomad.ConstraintDistinctHosts, RTarget: "false"}}
	sibling := account.Node{ID: "b", Name: "b", Held: []held{{Allocation: &nomad.Allocation{ID: "sibling", JobID: "chat", TaskGroup: "server"}}}}
	cousin := account.Node{ID: "b", Name: "b", Held: []held{{Allocation: &nomad.Allocation{ID: "cousin", JobID: "chat", TaskGroup: "other"}}}}
	for name, c := range map[string]struct {
		to            account.Node
		failed        *nomad.AllocationMetric
		before        []account.Move
		ofJob, ofTask []*nomad.Constraint
		want          bool
	}{
		"a place":              {to: account.Node{ID: "b"}, want: true},
		"filtered":             {to: account.Node{ID: "b"}, failed: &nomad.AllocationMetric{NodesFiltered: 2}},
		"exhausted":            {to: account.Node{ID: "b"}, failed: &nomad.AllocationMetric{NodesExhausted: 1}},
		"room is made":         {to: account.Node{ID: "b"}, failed: &nomad.AllocationMetric{NodesExhausted: 1}, before: []account.Move{{From: account.Node{ID: "b"}}}, want: true},
		"room is no help":      {to: account.Node{ID: "b"}, failed: &nomad.AllocationMetric{NodesFiltered: 2}, before: []account.Move{{From: account.Node{ID: "b"}}}},
		"beside a sibling":     {to: sibling, want: true},
		"apart by job":         {to: sibling, ofJob: apart},
		"apart by job, cousin": {to: cousin, ofJob: apart},
		"apart by group":       {to: sibling, ofTask: apart},
		"group and a cousin":   {to: cousin, ofTask: apart, want: true},
		"apart is off":         {to: sibling, ofJob: off, want: true},
	} {
		id, group, other, count := "chat", "server", "other", 3
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/job/chat", func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(nomad.Job{ID: &id, Constraints: c.ofJob, TaskGroups: []*nomad.TaskGroup{{Name: &group, Count: &count, Constraints: c.ofTask}, {Name: &other}}})
		})
		mux.HandleFunc("/v1/job/chat-trial/plan", func(w http.ResponseWriter, r *http.Request) {
			var asked nomad.JobPlanRequest
			_ = json.NewDecoder(r.Body).Decode(&asked)
			last := asked.Job.Constraints[len(asked.Job.Constraints)-1]
			if len(asked.Job.TaskGroups) != 1 || *asked.Job.TaskGroups[0].Count != 1 || last.LTarget != "${node.unique.id}" || last.RTarget != "b" {
				t.Errorf("%s: planned is %+v", name, asked.Job)
			}
			var plan nomad.JobPlanResponse
			if c.failed != nil {
				plan.FailedTGAllocs = map[string]*nomad.AllocationMetric{group: c.failed}
			}
			_ = json.NewEncoder(w).Encode(plan)
		})
		server := httptest.NewServer(mux)
		client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		d := defrag{ui: cli.NewMockUi(), nomad: client}
		got, err := d.fits(t.Context(), account.Move{Allocation: &nomad.Allocation{ID: "left", JobID: id, TaskGroup: group}, To: c.to}, c.before)
		server.Close()
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
}
