package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

func TestWhoMayBeMoved(t *testing.T) {
	for _, c := range []struct {
		meta    map[string]string
		kind    string
		count   int
		healthy int
		part    string
	}{
		{map[string]string{DefragMeta: "true"}, api.JobTypeService, 2, 2, ""},
		{nil, api.JobTypeService, 2, 2, "does not allow it"},
		{map[string]string{DefragMeta: "yes"}, api.JobTypeService, 2, 2, "does not allow it"},
		{map[string]string{DefragMeta: "true"}, api.JobTypeBatch, 2, 2, "only allocations of service jobs"},
		{map[string]string{DefragMeta: "true"}, api.JobTypeService, 1, 1, "1 of its group are healthy, and 1 must stay so"},
		{map[string]string{DefragMeta: "true"}, api.JobTypeService, 3, 2, "and 2 must stay so"},
		{map[string]string{DefragMeta: "true", DefragMinMeta: "1"}, api.JobTypeService, 3, 2, ""},
		{map[string]string{DefragMeta: "true", DefragMinMeta: "3"}, api.JobTypeService, 3, 3, "and 3 must stay so"},
		{map[string]string{DefragMeta: "true", DefragMinMeta: "0"}, api.JobTypeService, 3, 3, "at least 1"},
	} {
		got := Refusal(&api.Job{Type: &c.kind, Meta: c.meta}, &api.TaskGroup{Count: &c.count}, c.healthy)
		if (got == "") != (c.part == "") || !strings.Contains(got, c.part) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Two nodes with half a GPU each: the report finds the move that frees one, and says
// of each allocation why defrag must leave it.
func TestTheReportNamesMovesAndWhyNot(t *testing.T) {
	allow := map[string]string{DefragMeta: "true"}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		var out []*api.NodeListStub
		for _, name := range []string{"b", "a", "down"} {
			n := whole()
			n.NodeResources.Devices = n.NodeResources.Devices[3:]
			for i, d := range n.NodeResources.Devices[0].Instances {
				d.ID = fmt.Sprintf("GPU-%s::%02dof04", name, i)
			}
			status := map[string]string{"down": "down"}[name]
			if status == "" {
				status = "ready"
			}
			out = append(out, &api.NodeListStub{ID: name, Name: name, Status: status, SchedulingEligibility: "eligible", NodeResources: n.NodeResources, ReservedResources: n.ReservedResources})
		}
		reply(w, out)
	})
	mux.HandleFunc("GET /v1/allocations", func(w http.ResponseWriter, r *http.Request) {
		var out []*api.AllocationListStub
		for _, node := range []string{"a", "b"} {
			a := allocation("on "+node, api.AllocClientStatusRunning, 100, "GPU-"+node+"::00of04", "GPU-"+node+"::01of04")
			out = append(out, &api.AllocationListStub{ID: a.ID, NodeID: node, JobID: "chat", TaskGroup: "server", Namespace: "default", ClientStatus: a.ClientStatus, DesiredStatus: "run", AllocatedResources: a.AllocatedResources})
		}
		reply(w, out)
	})
	mux.HandleFunc("GET /v1/job/chat", func(w http.ResponseWriter, r *http.Request) {
		group, count, kind := "server", 2, api.JobTypeService
		reply(w, &api.Job{Type: &kind, Meta: allow, TaskGroups: []*api.TaskGroup{{Name: &group, Count: &count}}})
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	client, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	d := pack.Demand{{Ask: pack.Ask{CPU: 100, MemoryMiB: 100, Instances: 4, Requests: 1}, Weight: 1}}
	f, err := Report(t.Context(), client, d, MoveLimits{Max: 9, OnlyMovable: true})
	if err != nil || len(f.Nodes) != 2 || f.Nodes[0].Name != "a" || len(f.Moves) != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	if m := f.Moves[0]; m.GPU != 0.5 || m.Gain != 1 || m.From.Name == m.To.Name || m.Refused != "" {
		t.Errorf("the move is %+v", m)
	}
	// What a node does not take goes to another, or stays where there is none.
	for _, refusing := range []string{"a", "b", "both"} {
		asked := 0
		takes := func(_ context.Context, m Move, before []Move) (bool, error) {
			asked++
			return refusing != "both" && m.To.Name != refusing, nil
		}
		f, err := Report(t.Context(), client, d, MoveLimits{Max: 9, OnlyMovable: true, Fits: takes})
		if want := map[bool]int{false: 1, true: 0}[refusing == "both"]; err != nil || len(f.Moves) != want || want == 1 && f.Moves[0].To.Name == refusing || asked > 2 {
			t.Errorf("%s refuses: moves %+v after %d questions, %v", refusing, f.Moves, asked, err)
		}
	}
	failing := func(context.Context, Move, []Move) (bool, error) { return false, errors.New("denied") }
	if _, err := Report(t.Context(), client, d, MoveLimits{Max: 9, Fits: failing}); err == nil || err.Error() != "denied" {
		t.Errorf("a question that fails: %v", err)
	}
	delete(allow, DefragMeta)
	if f, err := Report(t.Context(), client, d, MoveLimits{Max: 9, OnlyMovable: true}); err != nil || len(f.Moves) != 0 {
		t.Errorf("jobs that do not allow it are moved: %+v, %v", f.Moves, err)
	}
	if f, err := Report(t.Context(), client, d, MoveLimits{Max: 9}); err != nil || len(f.Moves) != 1 || !strings.Contains(f.Moves[0].Refused, "does not allow it") {
		t.Errorf("the report is %+v, %v", f.Moves, err)
	}
}

// An allocation asks another node for GPUs of the vendor on whose it runs, cut alike.
func TestAnAllocationAsksForItsVendor(t *testing.T) {
	on := pack.Node{Groups: []pack.Group{{Vendor: "amd", Unit: 0.1}, {Vendor: "nvidia", Unit: 0.05}}}
	want := pack.Ask{CPU: 100, MemoryMiB: 200, Instances: 5, Requests: 1, Of: 20, Vendor: "nvidia"}
	if got := askOf(Held{CPU: 100, MemoryMiB: 200, Instances: []int{0, 5}}, on); got != want {
		t.Errorf("it asks %+v, want %+v", got, want)
	}
}
