package top

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func TestStartsAreMeansByJobAndGPU(t *testing.T) {
	alloc := func(job, group string, details ...map[string]string) *api.Allocation {
		state := &api.TaskState{Events: []*api.TaskEvent{{Details: map[string]string{"image": "x"}}, {}}}
		for _, d := range details {
			state.Events = append(state.Events, &api.TaskEvent{Details: d})
		}
		return &api.Allocation{JobID: job, TaskStates: map[string]*api.TaskState{"server": state, "sidecar": state}, AllocatedResources: &api.AllocatedResources{
			Tasks: map[string]*api.AllocatedTaskResources{"server": {Devices: []*api.AllocatedDeviceResource{{Name: group}}}, "sidecar": {}},
		}}
	}
	starts := mean(startsOf([]*api.Allocation{
		alloc("chat", "h100-0", map[string]string{"start_models_seconds": "10", "start_load_seconds": "40", "start_container_seconds": "1"}),
		alloc("chat", "h100-1", map[string]string{"start_models_seconds": "0", "start_load_seconds": "20", "start_container_seconds": "nonsense"}),
		alloc("chat", "l4-0", map[string]string{"start_load_seconds": "60"}),
		alloc("other", "h100-0"), {JobID: "none"},
	}))
	if len(starts) != 2 || starts[0].Count != 2 || starts[0].Seconds["load"] != 30 || starts[0].Seconds["models"] != 5 || starts[0].Seconds["container"] != 0.5 {
		t.Fatalf("%+v", starts)
	}
	var out bytes.Buffer
	if err := renderStarts(&out, starts); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if got := strings.Fields(lines[1]); strings.Join(got, " ") != "chat/server h100 2 - 5.0 - 0.5 30.0" {
		t.Errorf("%q", got)
	}
	if got := strings.Fields(lines[2]); strings.Join(got, " ") != "chat/server l4 1 - - - - 60.0" {
		t.Errorf("%q", got)
	}
	out.Reset()
	if err := renderStarts(&out, nil); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}
