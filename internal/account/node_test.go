package account

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"

	"aliquot.example/internal/pack"
)

// whole returns a node with two shared GPUs, index 1 listed first, and a group of two
// whole GPUs.
func whole() *api.Node {
	number := func(n int64) *api.Attribute { return &api.Attribute{IntVal: &n} }
	group := func(name, id string, n int, attributes map[string]*api.Attribute) *api.NodeDeviceResource {
		g := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: name, Attributes: attributes}
		for i := range n {
			g.Instances = append(g.Instances, &api.NodeDevice{ID: fmt.Sprintf(id, i), Healthy: true})
		}
		return g
	}
	return &api.Node{
		ID: "node",
		NodeResources: &api.NodeResources{
			Cpu: api.NodeCpuResources{CpuShares: 10000}, Memory: api.NodeMemoryResources{MemoryMB: 8000},
			Devices: []*api.NodeDeviceResource{
				group("t4-1", "GPU-b::%02dof04", 4, map[string]*api.Attribute{"index": number(1), "slices": number(4)}),
				group("h100", "GPU-%d", 2, nil),
				{Vendor: "any", Type: "usb", Name: "stick", Instances: []*api.NodeDevice{{ID: "usb", Healthy: true}}},
				group("t4-0", "GPU-a::%02dof04", 4, map[string]*api.Attribute{"index": number(0), "slices": number(4)}),
			},
		},
		ReservedResources: &api.NodeReservedResources{Cpu: api.NodeReservedCpuResources{CpuShares: 1000}, Memory: api.NodeReservedMemoryResources{MemoryMB: 500}},
	}
}

func allocation(id, status string, cpu int64, devices ...string) *api.Allocation {
	return &api.Allocation{ID: id, ClientStatus: status, AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
		"task": {Cpu: api.AllocatedCpuResources{CpuShares: cpu}, Memory: api.AllocatedMemoryResources{MemoryMB: 1000}, Devices: []*api.AllocatedDeviceResource{{DeviceIDs: devices}}},
	}}}
}

// Every allocation that has not ended counts, whatever its driver: the account is
// Nomad's.
func TestWhatIsFreeIsNomadsAccount(t *testing.T) {
	node := whole()
	node.NodeResources.Devices[0].Instances[3].Healthy = false
	free, held := Of(node, []*api.Allocation{
		allocation("running", api.AllocClientStatusRunning, 2000, "GPU-a::00of04", "GPU-a::01of04"),
		allocation("pending", api.AllocClientStatusPending, 1000, "GPU-1"),
		allocation("without a GPU", api.AllocClientStatusRunning, 500),
		allocation("ended", api.AllocClientStatusComplete, 4000, "GPU-a::02of04"),
		allocation("lost its GPU", api.AllocClientStatusRunning, 0, "GPU-gone::00of04"),
	})
	want := pack.Node{CPU: 5500, MemoryMiB: 3500, Groups: []pack.Group{{Free: 2, Total: 4, Unit: 0.25, Vendor: "nvidia"}, {Free: 3, Total: 3, Unit: 0.25, Vendor: "nvidia"}, {Free: 1, Total: 2, Unit: 1, Vendor: "nvidia"}}}
	if !reflect.DeepEqual(free, want) {
		t.Errorf("free are %+v, want %+v", free, want)
	}
	if len(held) != 4 || held[0].GPU(free) != 0.5 || held[1].GPU(free) != 1 || held[2].GPU(free) != 0 {
		t.Errorf("held are %+v", held)
	}
}

func TestANodeWithoutResourcesHasNothing(t *testing.T) {
	if free, held := Of(&api.Node{}, nil); len(free.Groups) != 0 || free.CPU != 0 || held != nil {
		t.Errorf("%+v, %+v", free, held)
	}
}

func TestADemandThatCannotBeIsRefused(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", `[{"instances": 1}]`, `[{"instances": 1, "weight": 1}]`, `[{"requests": 1, "weight": 1}]`, `[{"cpu": -1, "weight": 1}]`, `[{"weight": -1}]`, `[{"weight": 1e300}]`} {
		if d, err := ParseDemand([]byte(text)); err == nil {
			t.Errorf("%s is read as %+v", text, d)
		}
	}
	if d, err := ParseDemand([]byte(`[{"cpu": 100, "memory": 200, "instances": 5, "requests": 1, "weight": 0.5}]`)); err != nil || len(d) != 1 || d[0].MemoryMiB != 200 {
		t.Errorf("%+v, %v", d, err)
	}
}

func FuzzParseDemand(f *testing.F) {
	f.Add([]byte(`[{"cpu": 100, "memory": 200, "instances": 5, "requests": 1, "weight": 0.5}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := ParseDemand(text); err == nil {
			d.Attributes(d.Classes(), pack.Node{CPU: 1000, MemoryMiB: 1000, Groups: []pack.Group{{Free: 20, Total: 20, Unit: 0.05}}})
		}
	})
}

// A demand that learns stays one, and comes to what it sees.
func TestLearningComesToWhatIsSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ask := pack.Ask{CPU: 250 * rapid.IntRange(0, 40).Draw(t, "cpu"), MemoryMiB: 1024 * rapid.IntRange(0, 40).Draw(t, "memory"), Instances: rapid.IntRange(1, 20).Draw(t, "instances"), Requests: 1}
		d := pack.Start()
		for range 30 {
			d = pack.Blend(d, pack.Demand{{Ask: ask, Weight: 3}}, learned)
		}
		sum, of := 0.0, 0.0
		for _, k := range d {
			sum += k.Weight
			if k.Ask == ask {
				of = k.Weight
			}
		}
		if sum < 0.999 || sum > 1.001 || of < 0.99 {
			t.Fatalf("the weights sum to %v, what is seen has %v", sum, of)
		}
	})
	if d := pack.Blend(pack.Start(), nil, learned); !reflect.DeepEqual(d, pack.Start()) {
		t.Error("a cluster without jobs changes the demand")
	}
}
