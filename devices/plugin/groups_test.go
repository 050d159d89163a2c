package plugin

import (
	"testing"

	nomad "github.com/hashicorp/nomad/nomad/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// Nomad's servers remember that a waiting job cannot run on a class of nodes, and ask
// again when they see another class: a GPU that falls ill or is well again makes one.
func TestHealthIsPartOfANodesClass(t *testing.T) {
	plan := share.Plan{Offers: []share.Offer{
		{GPU: gpu.GPU{ID: "GPU-0"}, Group: "h100", Slices: 1}, {GPU: gpu.GPU{ID: "GPU-1"}, Group: "h100", Slices: 1},
	}}
	class := func(ill ...gpu.ID) string {
		states := map[gpu.ID]State{}
		for _, id := range ill {
			states[id] = State{Problem: "XID 79"}
		}
		node := &nomad.Node{NodeResources: &nomad.NodeResources{}}
		for _, g := range groupsOf(gpu.NVIDIA, plan, states, nil) {
			node.NodeResources.Devices = append(node.NodeResources.Devices, &nomad.NodeDeviceResource{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: g.Attributes})
		}
		if err := node.ComputeClass(); err != nil {
			t.Fatal(err)
		}
		return node.ComputedClass
	}
	well, one, both := class(), class("GPU-0"), class("GPU-0", "GPU-1")
	if well == one || one == both || well == both {
		t.Errorf("classes %s (well), %s (one is ill), %s (both are)", well, one, both)
	}
	if other := class("GPU-1"); other != one {
		t.Errorf("which of two alike GPUs is ill makes two classes: %s and %s", one, other)
	}
}
