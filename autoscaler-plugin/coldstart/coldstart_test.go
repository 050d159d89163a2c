package coldstart

import (
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

func TestNomadServiceIDs(t *testing.T) {
	const id = "_nomad-task-5d3c9a1e-1111-2222-3333-444455556666-server-app-http"
	if got := nomadService.FindStringSubmatch(id); got == nil || got[1] != "5d3c9a1e-1111-2222-3333-444455556666" {
		t.Errorf("got %v", got)
	}
	if got := nomadService.FindStringSubmatch("app-1"); got != nil {
		t.Errorf("got %v", got)
	}
}

// The driver reports the parts of a start in an event shortly after Consul reports the replica
// healthy. The start waits for it.
func TestAStartWaitsForItsParts(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	alloc := &nomad.Allocation{CreateTime: now.Add(-20 * time.Second).UnixNano(), TaskStates: map[string]*nomad.TaskState{"server": {Events: []*nomad.TaskEvent{{}}}}}
	f := newReplica{at: now, class: "h100"}
	if _, ok, done := f.sample(alloc, now); ok || done {
		t.Error("it is written down at once")
	}
	state := alloc.TaskStates["server"]
	state.Events = append(state.Events, &nomad.TaskEvent{Details: map[string]string{"start_load_seconds": "12"}})
	s, ok, done := f.sample(alloc, now.Add(2*time.Second))
	if !ok || !done || s.Seconds != 20 || s.Class != "h100" || s.Parts["load"] != 12 {
		t.Errorf("got %+v, %v, %v", s, ok, done)
	}
	state.Events = nil
	if s, ok, done := f.sample(alloc, now.Add(partsTimeout)); !ok || !done || s.Parts != nil || s.Seconds != 20 {
		t.Errorf("without an event: %+v, %v, %v", s, ok, done)
	}
	// After a restart in place, the start time is unknown.
	state.Restarts = 1
	if _, ok, done := f.sample(alloc, now); ok || !done {
		t.Error("a restart in place counts as a start")
	}
}
