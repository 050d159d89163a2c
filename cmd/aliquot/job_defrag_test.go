package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
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

// defragged is a group of two allocations, of which one is to be moved, and what Nomad was
// asked to do about it.
type defragged struct {
	full    bool   // no node has a place for a successor
	runs    bool   // a successor becomes healthy
	awaited func() // is called when the successor is looked for
	calls   []string
}

// move moves the allocation.
func (g *defragged) move(ctx context.Context, t *testing.T, timeout time.Duration) (moved bool, err error) {
	yes, count, kind, id, group, most := true, 2, nomad.JobTypeService, "chat", "server", int64(2)
	mux := http.NewServeMux()
	reply := func(pattern, call string, answer any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			if call != "" {
				g.calls = append(g.calls, call)
			}
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	running := func(id string) *nomad.AllocationListStub {
		return &nomad.AllocationListStub{ID: id, TaskGroup: group, ClientStatus: "running", DesiredStatus: "run", DeploymentStatus: &nomad.AllocDeploymentStatus{Healthy: &yes}}
	}
	mux.HandleFunc("/v1/job/chat/allocations", func(w http.ResponseWriter, _ *http.Request) {
		list := []*nomad.AllocationListStub{running("stays"), running("left")}
		if slices.Contains(g.calls, "stop") {
			list[1] = running("successor")
			if !g.runs {
				list[1].ClientStatus = "pending"
			}
			if g.awaited != nil {
				g.awaited()
			}
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
		g.calls = append(g.calls, "plan")
		var plan nomad.JobPlanResponse
		if g.full {
			plan.FailedTGAllocs = map[string]*nomad.AllocationMetric{group: {}}
		}
		_ = json.NewEncoder(w).Encode(plan)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	d := defrag{ui: cli.NewMockUi(), nomad: client, timeout: timeout}
	return d.move(ctx, account.Move{Allocation: &nomad.Allocation{ID: "left", JobID: id, TaskGroup: group}, From: account.Node{ID: "a", Open: true}})
}

// An allocation whose successor would find no place is not stopped: the node opens
// again, and the run goes on.
func TestDefragStopsNothingThatCanGoNowhere(t *testing.T) {
	for _, full := range []bool{true, false} {
		g := defragged{full: full, runs: true}
		moved, err := g.move(t.Context(), t, time.Hour)
		want := []string{"eligibility", "plan", "stop", "eligibility"}
		if full {
			want = []string{"eligibility", "plan", "eligibility"}
		}
		if err != nil || moved == full || !slices.Equal(g.calls, want) {
			t.Errorf("full %v: moved %v, %v, calls %q, want %q", full, moved, err, g.calls, want)
		}
	}
}

// Where the node that a successor would go to is lost after the stop, or the operator ends
// the command there, the node that was left opens again, and the error says what is so.
func TestDefragOpensTheNodeAgainWithoutASuccessor(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	for want, c := range map[string]struct {
		ctx     context.Context
		awaited func()
		timeout time.Duration
	}{
		"its successor was not healthy within 1ms":                     {t.Context(), nil, time.Millisecond},
		"the command was interrupted before its successor was healthy": {ctx, interrupt, time.Hour},
	} {
		g := defragged{awaited: c.awaited}
		moved, err := g.move(c.ctx, t, c.timeout)
		if moved || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nomad job status chat") {
			t.Errorf("moved %v, %v, want %q", moved, err, want)
		}
		if calls := []string{"eligibility", "plan", "stop", "eligibility"}; !slices.Equal(g.calls, calls) {
			t.Errorf("%s: calls %q, want %q", want, g.calls, calls)
		}
	}
}
