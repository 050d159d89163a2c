package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot/internal/pack"
)

// Eight whole GPUs of one group in two islands: a request for four with the constraint
// lands inside its island, and one for all eight still fits.
func TestARequestLandsInsideOneIsland(t *testing.T) {
	c := small(t, 1, 0, pack.None)
	stored, _ := c.state.NodeByID(nil, nodeOf(0, machine{model: "T4"}, 20).ID)
	group := &structs.NodeDeviceResource{Vendor: string(vendor), Type: "gpu", Name: "h100", Attributes: map[string]*pstructs.Attribute{}}
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprintf("GPU-%d", i))
		group.Instances = append(group.Instances, &structs.NodeDevice{ID: ids[i], Healthy: true})
	}
	group.Attributes["unique.numa_0"] = pstructs.NewStringAttribute(strings.Join(ids[:4], ","))
	group.Attributes["unique.numa_1"] = pstructs.NewStringAttribute(strings.Join(ids[4:], ","))
	for range 10 { // the order of instances is random
		if got := granted(t, stored, group, 4, "${device.attr.unique.numa_1}"); !slices.Equal(got, ids[4:]) {
			t.Fatalf("the island is %v, granted are %v", ids[4:], got)
		}
	}
	if got := granted(t, stored, group, 8, ""); !slices.Equal(got, ids) {
		t.Errorf("all eight: %v", got)
	}
}

// granted places one task on a fresh node with the group, and returns its instances.
func granted(t *testing.T, of *structs.Node, group *structs.NodeDeviceResource, count uint64, island string) []string {
	t.Helper()
	one := small(t, 1, 0, pack.None)
	node := of.Copy()
	node.NodeResources.Devices = []*structs.NodeDeviceResource{group.Copy()}
	if err := node.ComputeClass(); err != nil {
		t.Fatal(err)
	}
	if err := one.state.UpsertNode(structs.MsgTypeTestSetup, one.plans.NextIndex(), node); err != nil {
		t.Fatal(err)
	}
	ask := &structs.RequestedDevice{Name: "gpu", Count: count}
	if island != "" {
		ask.Constraints = structs.Constraints{{LTarget: island, Operand: structs.ConstraintSetContainsAny, RTarget: "${device.ids}"}}
	}
	job := one.jobOf(task{cpu: 100, memory: 100})
	submitted, err := submission(job)
	if err != nil {
		t.Fatal(err)
	}
	submitted.TaskGroups[0].Tasks[0].Resources.Devices = structs.ResourceDevices{ask}
	ok, err := one.schedule(submitted, func(*pack.Node, *structs.Allocation) {})
	if err != nil || !ok {
		t.Fatalf("placed: %v, %v", ok, err)
	}
	list, err := one.state.AllocsByJob(nil, structs.DefaultNamespace, submitted.ID, true)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	out := list[0].AllocatedResources.Tasks["work"].Devices[0].DeviceIDs
	slices.Sort(out)
	return out
}
