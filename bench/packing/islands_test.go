package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/share"
	"aliquot.example/internal/steer"
)

// islandNode is a node with one group of eight whole GPUs, every four joined by links.
type islandNode struct {
	c      *cluster
	node   *structs.Node
	offers []share.Offer
	taken  map[string]bool
}

func newIslandNode(t *testing.T) *islandNode {
	t.Helper()
	n := &islandNode{c: small(t, 1, 0, pack.None), taken: map[string]bool{}}
	stored, err := n.c.state.NodeByID(nil, nodeOf(0, machine{model: "T4"}, 20).ID)
	if err != nil {
		t.Fatal(err)
	}
	n.node = stored.Copy()
	group := &structs.NodeDeviceResource{Vendor: string(vendor), Type: gpu.DeviceType, Name: "h100"}
	for i := range 8 {
		id := fmt.Sprintf("GPU-%d", i)
		n.offers = append(n.offers, share.Offer{GPU: gpu.GPU{ID: gpu.ID(id), Index: i, PCI: id, NUMANode: -1, LinkSwitches: []string{fmt.Sprint(i / 4)}}, Slices: 1, Sharing: gpu.SharingNone})
		group.Instances = append(group.Instances, &structs.NodeDevice{ID: id, Healthy: true})
	}
	n.node.NodeResources.Devices = []*structs.NodeDeviceResource{group}
	n.publish(t)
	return n
}

// publish writes the node with the islands by what is taken.
func (n *islandNode) publish(t *testing.T) {
	t.Helper()
	n.node = n.node.Copy()
	group := n.node.NodeResources.Devices[0]
	group.Attributes = map[string]*pstructs.Attribute{"slices": pstructs.NewIntAttribute(1, "")}
	lists, sizes := share.Attributes(n.offers, func(id string) bool { return !n.taken[id] })
	for name, list := range lists {
		group.Attributes[name] = pstructs.NewStringAttribute(list)
	}
	for name, size := range sizes {
		group.Attributes[name] = pstructs.NewIntAttribute(int64(size), "")
	}
	if err := n.node.ComputeClass(); err != nil {
		t.Fatal(err)
	}
	if err := n.c.state.UpsertNode(structs.MsgTypeTestSetup, n.c.plans.NextIndex(), n.node); err != nil {
		t.Fatal(err)
	}
}

// ask places a job for k GPUs as aliquot job run -island would submit it, "" for none,
// and returns what it got, nil where there was no room.
func (n *islandNode) ask(t *testing.T, k uint64, island share.Joint) []string {
	t.Helper()
	job := n.c.jobOf(task{cpu: 100, memory: 100})
	job.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "gpu", Count: &k}}
	if island != "" {
		steer.Join(job, island)
	}
	submitted, err := submission(job)
	if err != nil {
		t.Fatal(err)
	}
	ok, err := n.c.schedule(submitted, func(*pack.Node, *structs.Allocation) {})
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return nil
	}
	list, err := n.c.state.AllocsByJob(nil, structs.DefaultNamespace, submitted.ID, true)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	out := list[0].AllocatedResources.Tasks["work"].Devices[0].DeviceIDs
	for _, id := range out {
		n.taken[id] = true
	}
	slices.Sort(out)
	return out
}

// Each request lands inside one island, a small one where it leaves room for a large one,
// and a request for all eight GPUs fits as well.
func TestARequestLandsInsideOneIsland(t *testing.T) {
	for range 10 { // the order of instances is random
		n := newIslandNode(t)
		inside := func(got []string) int { // which island, -1 for none or for both
			if len(got) == 0 || got[0][4]/4 != got[len(got)-1][4]/4 {
				return -1
			}
			return int(got[0][4]-'0') / 4
		}
		two := inside(n.ask(t, 2, share.ByLink))
		n.publish(t)
		four := inside(n.ask(t, 4, share.ByLink))
		n.publish(t)
		again := inside(n.ask(t, 2, share.ByLink))
		if two < 0 || four != 1-two || again != two {
			t.Fatalf("two GPUs are of island %d, four of %d, two more of %d", two, four, again)
		}
		if got := newIslandNode(t).ask(t, 8, ""); len(got) != 8 {
			t.Errorf("all eight: %v", got)
		}
	}
}

// Until the node publishes again after a placement, a request may find no room although
// another island has some. It waits, and then fits.
func TestARequestWaitsForTheNextIsland(t *testing.T) {
	n := newIslandNode(t)
	if got := n.ask(t, 3, share.ByLink); len(got) != 3 {
		t.Fatalf("three GPUs: %v", got)
	}
	if got := n.ask(t, 3, share.ByLink); got != nil {
		t.Fatalf("three more before the node publishes: %v", got)
	}
	n.publish(t)
	if got := n.ask(t, 3, share.ByLink); len(got) != 3 {
		t.Errorf("three more after it: %v", got)
	}
	if got := n.ask(t, 5, share.ByLink); got != nil {
		t.Errorf("five GPUs of islands of four: %v", got)
	}
}
