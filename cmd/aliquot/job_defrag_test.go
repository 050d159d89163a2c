package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
