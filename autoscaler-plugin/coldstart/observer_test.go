package coldstart

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/learned"
)

// observed is an observer with a real Consul and a stub of Nomad. The stub answers a request for an
// allocation with its entry in status, and for 200 with an allocation that began 20 s ago.
type observed struct {
	*testing.T
	*Observer
	watch  watch
	now    time.Time
	status map[string]int
}

func observe(t *testing.T) *observed {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	o := &observed{T: t, now: time.Now(), status: map[string]int{}}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := path.Base(r.URL.Path)
		if status := o.status[id]; status != http.StatusOK {
			w.WriteHeader(max(status, http.StatusNotFound))
			return
		}
		json.NewEncoder(w).Encode(nomad.Allocation{ID: id, CreateTime: o.now.Add(-20 * time.Second).UnixNano(), TaskStates: map[string]*nomad.TaskState{
			"server": {Events: []*nomad.TaskEvent{{Details: map[string]string{"start_load_seconds": "12"}}}},
		}})
	}))
	t.Cleanup(api.Close)
	client, err := nomad.NewClient(&nomad.Config{Address: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	o.Observer = &Observer{consul: server.Client, nomad: client}
	if err := o.observeOnce("llm", &o.watch, o.now); err != nil {
		t.Fatal(err)
	}
	return o
}

// start registers a replica. Nomad answers for its allocation with the status.
func (o *observed) start(n, status int) {
	o.Helper()
	id := fmt.Sprintf("5d3c9a1e-1111-2222-3333-%012d", n)
	o.status[id] = status
	if err := o.consul.Agent().ServiceRegister(&consul.AgentServiceRegistration{ID: "_nomad-task-" + id + "-server-llm-http", Name: "llm"}); err != nil {
		o.Fatal(err)
	}
}

func (o *observed) samples() int {
	o.Helper()
	samples, err := Read(o.Context(), o.consul, "llm")
	if err != nil {
		o.Fatal(err)
	}
	return len(samples)
}

// A failed lookup of one replica does not lose the sample of another one, nor its own once the
// lookup works.
func TestAFailedLookupKeepsNoOtherStartBack(t *testing.T) {
	o := observe(t)
	for n := range 8 {
		o.start(n, map[bool]int{true: http.StatusInternalServerError, false: http.StatusOK}[n%2 == 0])
	}
	if err := o.observeOnce("llm", &o.watch, o.now); err == nil || o.samples() != 4 || len(o.watch.unrecorded) != 4 {
		t.Fatalf("%d samples, %d still to come, %v; want 4 and 4", o.samples(), len(o.watch.unrecorded), err)
	}
	// Nomad is unavailable for longer than partsTimeout.
	for id := range o.status {
		if o.status[id] != http.StatusOK {
			o.status[id] = http.StatusServiceUnavailable
		}
	}
	if err := o.observeOnce("llm", &o.watch, o.now.Add(2*partsTimeout)); err == nil || len(o.watch.unrecorded) != 4 {
		t.Fatalf("%d still to come, %v; want 4", len(o.watch.unrecorded), err)
	}
	for id := range o.status {
		o.status[id] = http.StatusOK
	}
	if err := o.observeOnce("llm", &o.watch, o.now.Add(3*partsTimeout)); err != nil || o.samples() != 8 || len(o.watch.unrecorded) != 0 {
		t.Errorf("%d samples, %d still to come, %v; want all 8", o.samples(), len(o.watch.unrecorded), err)
	}
	// An allocation that no longer exists in Nomad is not looked up forever.
	o.start(8, http.StatusNotFound)
	o.observeOnce("llm", &o.watch, o.now)
	if o.observeOnce("llm", &o.watch, o.now.Add(partsTimeout)); len(o.watch.unrecorded) != 0 || o.samples() != 8 {
		t.Errorf("%d samples, %d still to come; want 8 and none", o.samples(), len(o.watch.unrecorded))
	}
}

// A start that cannot be written is retried until it is.
func TestAStartThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	o := observe(t)
	key := learned.StartsKey("llm")
	if _, err := o.consul.KV().Put(&consul.KVPair{Key: key, Value: []byte("no document")}, nil); err != nil {
		t.Fatal(err)
	}
	o.start(1, http.StatusOK)
	if err := o.observeOnce("llm", &o.watch, o.now); err == nil || len(o.watch.unrecorded) != 1 {
		t.Fatalf("%d still to come, %v; want 1, and an error", len(o.watch.unrecorded), err)
	}
	if _, err := o.consul.KV().Delete(key, nil); err != nil {
		t.Fatal(err)
	}
	if err := o.observeOnce("llm", &o.watch, o.now.Add(time.Second)); err != nil || o.samples() != 1 || len(o.watch.unrecorded) != 0 {
		t.Errorf("%d samples, %d still to come, %v; want 1 and none", o.samples(), len(o.watch.unrecorded), err)
	}
}
