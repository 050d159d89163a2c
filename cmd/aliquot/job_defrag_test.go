package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot/internal/account"
)

// A successor that runs is not healthy until Nomad has found it so; an allocation from
// before the run on which Nomad never decides counts as healthy.
func TestDefragWaitsUntilNomadFindsTheSuccessorHealthy(t *testing.T) {
	yes, no := true, false
	statuses := []*nomad.AllocDeploymentStatus{nil, {Canary: true}, {Healthy: &no}, {Healthy: &yes}}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := statuses[min(asked, len(statuses)-1)]
		asked++
		stub := func(id, desired string, s *nomad.AllocDeploymentStatus) *nomad.AllocationListStub {
			return &nomad.AllocationListStub{ID: id, TaskGroup: "server", ClientStatus: "running", DesiredStatus: desired, DeploymentStatus: s}
		}
		_ = json.NewEncoder(w).Encode([]*nomad.AllocationListStub{stub("left", "stop", nil), stub("stays", "run", nil), stub("successor", "run", status)})
	}))
	defer server.Close()
	client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	left := &nomad.Allocation{ID: "left", JobID: "chat", TaskGroup: "server"}
	d := defrag{ui: cli.NewMockUi(), nomad: client, timeout: time.Hour, settled: allocations([]account.Node{
		{Held: []account.Held{{Allocation: left}, {Allocation: &nomad.Allocation{ID: "stays"}}}},
	})}
	if err := d.await(t.Context(), account.Move{Allocation: left}, map[string]string{"left": "a", "stays": "b"}); err != nil || asked != len(statuses) {
		t.Errorf("await ended after %d answers with %v, want %d", asked, err, len(statuses))
	}
}

// An allocation whose successor would find no place is not stopped: the node opens
// again, and the run goes on.
func TestDefragStopsNothingThatCanGoNowhere(t *testing.T) {
	for _, full := range []bool{true, false} {
		var calls []string
		yes, count, kind, id, group, most := true, 2, nomad.JobTypeService, "chat", "server", int64(2)
		mux := http.NewServeMux()
		reply := func(pattern, call string, answer any) {
			mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				if call != "" {
					calls = append(calls, call)
				}
				_ = json.NewEncoder(w).Encode(answer)
			})
		}
		running := func(id string) *nomad.AllocationListStub {
			return &nomad.AllocationListStub{ID: id, TaskGroup: group, ClientStatus: "running", DesiredStatus: "run", DeploymentStatus: &nomad.AllocDeploymentStatus{Healthy: &yes}}
		}
		mux.HandleFunc("/v1/job/chat/allocations", func(w http.ResponseWriter, r *http.Request) {
			list := []*nomad.AllocationListStub{running("stays"), running("left")}
			if slices.Contains(calls, "stop") {
				list[1] = running("successor")
			}
			_ = json.NewEncoder(w).Encode(list)
		})
		reply("/v1/job/chat", "", nomad.Job{ID: &id, Type: &kind, Meta: map[string]string{account.DefragMeta: "true"}, TaskGroups: []*nomad.TaskGroup{{Name: &group, Count: &count, Scaling: &nomad.ScalingPolicy{Max: &most}}}})
		reply("/v1/node/a/eligibility", "eligibility", nomad.NodeEligibilityUpdateResponse{})
		reply("/v1/allocation/left/stop", "stop", nomad.AllocStopResponse{})
		mux.HandleFunc("/v1/job/chat/plan", func(w http.ResponseWriter, r *http.Request) {
			var asked nomad.JobPlanRequest
			_ = json.NewDecoder(r.Body).Decode(&asked)
			if tg := asked.Job.TaskGroups[0]; *tg.Count != 3 || tg.Scaling != nil {
				t.Errorf("%d are planned with scaling %+v, want one more than 2 and no bounds", *tg.Count, tg.Scaling)
			}
			calls = append(calls, "plan")
			var plan nomad.JobPlanResponse
			if full {
				plan.FailedTGAllocs = map[string]*nomad.AllocationMetric{group: {}}
			}
			_ = json.NewEncoder(w).Encode(plan)
		})
		server := httptest.NewServer(mux)
		client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		d := defrag{ui: cli.NewMockUi(), nomad: client, timeout: time.Hour}
		moved, err := d.move(t.Context(), account.Move{Allocation: &nomad.Allocation{ID: "left", JobID: id, TaskGroup: group}, From: account.Node{ID: "a", Open: true}})
		server.Close()
		want := []string{"eligibility", "plan", "stop", "eligibility"}
		if full {
			want = []string{"eligibility", "plan", "eligibility"}
		}
		if err != nil || moved == full || !slices.Equal(calls, want) {
			t.Errorf("full %v: moved %v, %v, calls %q, want %q", full, moved, err, calls, want)
		}
	}
}
