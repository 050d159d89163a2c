package watch

import (
	"cmp"
	"slices"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/ui/view"
)

// alloc has the parts of an allocation that are needed to account for devices and to show it. Other
// fields are dropped, because there may be tens of thousands of allocations.
type alloc struct {
	*nomad.Allocation
	shown   view.Alloc
	devices []string // that it holds
}

func allocOf(a *nomad.AllocationListStub) alloc {
	out := alloc{
		Allocation: &nomad.Allocation{
			ID: a.ID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, JobID: a.JobID, TaskGroup: a.TaskGroup,
			ClientStatus: a.ClientStatus, DesiredStatus: a.DesiredStatus, AllocatedResources: a.AllocatedResources,
		},
		shown: view.Alloc{
			ID: a.ID, Namespace: a.Namespace, Job: a.JobID, Group: a.TaskGroup, Node: a.NodeName,
			Desired: a.DesiredStatus, Client: a.ClientStatus,
			Created: time.Unix(0, a.CreateTime), Modified: time.Unix(0, a.ModifyTime),
		},
	}
	if a.AllocatedResources != nil {
		for _, task := range a.AllocatedResources.Tasks {
			for _, d := range task.Devices {
				out.devices = append(out.devices, d.DeviceIDs...)
			}
		}
	}
	out.shown.Slices = len(out.devices)
	for task, state := range a.TaskStates {
		for _, e := range state.Events {
			text := cmp.Or(e.DisplayMessage, e.Message, e.DriverError, e.Details["message"])
			out.shown.Events = append(out.shown.Events, view.TaskEvent{
				At: time.Unix(0, e.Time), Task: task, Type: e.Type, Text: text,
				Failed: e.FailsTask || e.Details["fails_task"] == "true",
			})
		}
	}
	slices.SortFunc(out.shown.Events, func(a, b view.TaskEvent) int { return a.At.Compare(b.At) })
	return out
}

// shownOf returns the allocations for the views. class is the hardware class by device instance.
func shownOf(allocs []alloc, class map[string]string) []view.Alloc {
	out := make([]view.Alloc, 0, len(allocs))
	for _, a := range allocs {
		for _, id := range a.devices {
			a.shown.Class = cmp.Or(class[id], a.shown.Class)
		}
		out = append(out, a.shown)
	}
	return out
}
