package doctor

import (
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func ask(devices ...*api.RequestedDevice) []Ask {
	id, group, ns := "llm", "g", "team"
	return AsksOf(&api.Job{ID: &id, Namespace: &ns, TaskGroups: []*api.TaskGroup{{Name: &group, Tasks: []*api.Task{
		{Name: "server", Resources: &api.Resources{Devices: devices}}, {Name: "log"},
	}}}})
}

func TestJobsOfAnotherDevicePluginAreFound(t *testing.T) {
	one := uint64(1)
	for name, c := range map[string]struct {
		devices []*api.RequestedDevice
		want    string
		level   Level
	}{
		"product as group": {[]*api.RequestedDevice{{Name: "nvidia/gpu/Tesla T4", Count: &one}}, `team:llm/g/server requests device "nvidia/gpu/Tesla T4"`, Warning},
		"product as model": {[]*api.RequestedDevice{{Name: "gpu", Constraints: []*api.Constraint{{LTarget: "${device.model}", RTarget: "Tesla T4", Operand: "="}}}}, "${device.model}", Warning},
		"two blocks":       {[]*api.RequestedDevice{{Name: "gpu"}, {Name: "nvidia/gpu"}}, "2 device blocks", Warning},
		"ours":             {[]*api.RequestedDevice{{Name: "nvidia/gpu/t4-0"}}, "1 for one instance, which is one slice", OK},
		"by class":         {[]*api.RequestedDevice{{Name: "nvidia/gpu", Constraints: []*api.Constraint{{LTarget: "${device.attr.class}", RTarget: "t4"}}}}, "1 tasks request", OK},
	} {
		f := facts(t, `{}`, "aliquot")
		twenty := int64(20)
		f.Node.NodeResources.Devices = []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "t4-0", Attributes: map[string]*api.Attribute{"slices": {IntVal: &twenty}}}}
		f.Asks, f.Preemption = ask(c.devices...), true
		if got := find(Examine(f), "jobs"); got.Level != c.level || !strings.Contains(got.What, c.want) {
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
	f := facts(t, `{}`)
	f.Asks = ask(&api.RequestedDevice{Name: "fpga"}, &api.RequestedDevice{Name: "intel/fpga/F10"})
	if len(f.Asks) != 0 {
		t.Errorf("other devices: %+v", f.Asks)
	}
	f.JobsProblem = "403 Permission denied"
	if got := find(Examine(f), "jobs"); got.Level != Warning || !strings.Contains(got.What, "Permission denied") {
		t.Errorf("without rights: %+v", got)
	}
}
