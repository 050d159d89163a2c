package top

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/nomad/api"
)

// nomadOf answers as a Nomad server does for n nodes with one GPU of two slices
// each and one node without. stats answers for a node's statistics.
func nomadOf(t *testing.T, n int, stats func(w http.ResponseWriter, r *http.Request, node string)) Cluster {
	t.Helper()
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		stubs := []*api.NodeListStub{{ID: "cpu", Name: "cpu", Status: "ready"}}
		for i := range n {
			stub := &api.NodeListStub{ID: fmt.Sprintf("node-%02d", i), Name: fmt.Sprintf("node-%02d", i), Status: "ready", SchedulingEligibility: "eligible"}
			if r.URL.Query().Get("resources") == "true" {
				stub.NodeResources = &api.NodeResources{Devices: []*api.NodeDeviceResource{{
					Vendor: "nvidia", Type: "gpu", Name: "t4-0", Instances: []*api.NodeDevice{
						{ID: fmt.Sprintf("GPU-%02d::00of02", i), Healthy: true}, {ID: fmt.Sprintf("GPU-%02d::01of02", i), Healthy: true},
					},
				}}}
			}
			stubs = append(stubs, stub)
		}
		reply(w, stubs)
	})
	mux.HandleFunc("GET /v1/node/{id}/allocations", func(w http.ResponseWriter, r *http.Request) {
		id := strings.Replace(r.PathValue("id"), "node-", "GPU-", 1) + "::00of02"
		reply(w, []*api.Allocation{{ID: "aaaa", JobID: "chat", ClientStatus: "running", AllocatedResources: &api.AllocatedResources{
			Tasks: map[string]*api.AllocatedTaskResources{"server": {Devices: []*api.AllocatedDeviceResource{{DeviceIDs: []string{id}}}}},
		}}})
	})
	mux.HandleFunc("GET /v1/acl/token/self", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "ACL support disabled", http.StatusBadRequest)
	})
	mux.HandleFunc("GET /v1/client/stats", func(w http.ResponseWriter, r *http.Request) {
		stats(w, r, r.URL.Query().Get("node_id"))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	client, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return Cluster{Nomad: client}
}

// busyStats are the statistics of a node whose GPU is half busy.
func busyStats(w http.ResponseWriter, node string) {
	half := 50.0
	st := &api.DeviceStats{Stats: &api.StatObject{Attributes: map[string]*api.StatValue{"gpu_busy": {FloatNumeratorVal: &half}}}}
	_ = json.NewEncoder(w).Encode(&api.HostStats{DeviceStats: []*api.DeviceGroupStats{{
		InstanceStats: map[string]*api.DeviceStats{strings.Replace(node, "node-", "GPU-", 1) + "::00of02": st},
	}}})
}

// The nodes that answer do so only once all of them were asked, beside the one
// that never does: asked one after another, none would.
func TestSilentNodeDelaysNoOther(t *testing.T) {
	var asked atomic.Int32
	all := make(chan struct{})
	c := nomadOf(t, atOnce, func(w http.ResponseWriter, r *http.Request, node string) {
		answers := all
		if node == "node-03" {
			answers = nil
		} else if asked.Add(1) == atOnce-1 {
			close(all)
		}
		select {
		case <-answers:
			busyStats(w, node)
		case <-r.Context().Done():
		}
	})
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes) != atOnce {
		t.Fatalf("got %d nodes, want the %d with GPUs", len(s.Nodes), atOnce)
	}
	for _, n := range s.Nodes {
		if len(n.GPUs) != 1 || n.GPUs[0].Used() != 1 {
			t.Fatalf("%s: got %+v", n.Name, n)
		}
		silent := n.Name == "node-03"
		if (n.GPUs[0].UsePercent == 50) == silent || (n.Problem != "") != silent {
			t.Errorf("%s: got %+v", n.Name, n)
		}
	}
	var text strings.Builder
	if err := Render(&text, s); err != nil {
		t.Fatal(err)
	}
	if want := "node node-03  node-03  ready  no device statistics: no answer within 2s"; !strings.Contains(text.String(), want+"\n") {
		t.Errorf("no %q in\n%s", want, text.String())
	}
}

func TestMoreNodesThanAreAskedAtOnce(t *testing.T) {
	const n = 3*atOnce + 1
	var mu sync.Mutex
	now, most := 0, 0
	c := nomadOf(t, n, func(w http.ResponseWriter, _ *http.Request, node string) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		busyStats(w, node)
		mu.Lock()
		now--
		mu.Unlock()
	})
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range s.Nodes {
		if node.Problem != "" || node.GPUs[0].UsePercent != 50 {
			t.Errorf("%s: got %+v", node.Name, node)
		}
	}
	if len(s.Nodes) != n || most > atOnce {
		t.Errorf("got %d nodes, %d asked at once, want %d and %d at most", len(s.Nodes), most, n, atOnce)
	}
}
