package account

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// Node is the state of one node with GPUs, according to Nomad.
type Node struct {
	ID, Name string
	// Pool, NodeClass and Datacenter are those of its agent's configuration.
	Pool, NodeClass, Datacenter string
	// Open is set if the servers place allocations on the node, Leaving if the autoscaler is
	// about to stop the node.
	Open, Leaving bool
	Free          pack.Node
	Held          []Held
	// Names and Classes are those of the groups of Free: Nomad's name of each, and the class of
	// its GPUs, "" if it has none.
	Names, Classes []string
	// Attributes are those of each group; nil if they are not known.
	Attributes []map[string]*api.Attribute
	// Busy is set if the node has an allocation that has not ended, except of system jobs. Ended is
	// when the last allocation that Nomad still knows of ended.
	Busy  bool
	Ended time.Time
	// Created and Modified are indexes of the servers' state.
	Created, Modified uint64
}

// Cluster returns all nodes with GPUs, sorted by name. Allocations that the token may not read are
// missing.
func Cluster(ctx context.Context, client *api.Client) ([]Node, error) {
	q := (&api.QueryOptions{Namespace: api.AllNamespacesNamespace, Params: map[string]string{"resources": "true"}}).
		WithContext(ctx)
	stubs, _, err := client.Nodes().List(q)
	if err != nil {
		return nil, fmt.Errorf("cannot list the nodes of Nomad at %s: %w", client.Address(), err)
	}
	list, _, err := client.Allocations().List(q)
	if err != nil {
		return nil, fmt.Errorf("cannot list the allocations of Nomad: %w", err)
	}
	on := map[string][]*api.Allocation{}
	work := map[string]*workload{}
	for _, a := range list {
		if work[a.NodeID] == nil {
			work[a.NodeID] = &workload{}
		}
		work[a.NodeID].add(a)
		on[a.NodeID] = append(on[a.NodeID], &api.Allocation{
			ID: a.ID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, JobID: a.JobID, TaskGroup: a.TaskGroup,
			ClientStatus: a.ClientStatus, DesiredStatus: a.DesiredStatus, DeploymentStatus: a.DeploymentStatus,
			AllocatedResources: a.AllocatedResources,
		})
	}
	var out []Node
	for _, stub := range stubs {
		node := &api.Node{NodeResources: stub.NodeResources, ReservedResources: stub.ReservedResources}
		free, held := Of(node, on[stub.ID])
		if len(free.Groups) == 0 || stub.Status == api.NodeStatusDown {
			continue
		}
		open := stub.Status == api.NodeStatusReady && stub.SchedulingEligibility == api.NodeSchedulingEligible
		n := Node{
			ID: stub.ID, Name: stub.Name, Pool: stub.NodePool, NodeClass: stub.NodeClass, Datacenter: stub.Datacenter,
			Open: open, Leaving: !open && leaves(stub.LastDrain, time.Now()), Free: free, Held: held,
			Created: stub.CreateIndex, Modified: stub.ModifyIndex,
		}
		for _, g := range groups(node) {
			n.Names, n.Classes = append(n.Names, g.Name), append(n.Classes, class(g))
			n.Attributes = append(n.Attributes, g.Attributes)
		}
		if w := work[stub.ID]; w != nil {
			n.Busy, n.Ended = w.busy, w.ended
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// ending is how long after its drain the autoscaler may take to stop a node.
const ending = 15 * time.Minute

// leaves reports whether the autoscaler drains the node to stop it, according to the meta that Nomad
// Autoscaler 0.5.0 (sdk/helper/scaleutils) writes. If the autoscaler itself ends during the drain,
// nobody stops the node, so the result is false some time after the drain.
func leaves(drain *api.DrainMetadata, now time.Time) bool {
	return drain != nil && drain.Meta["drained_by"] == "nomad-autoscaler" &&
		(drain.Status == api.DrainStatusDraining || now.Sub(drain.UpdatedAt) < ending)
}

// workload is the state of a node according to its allocations.
type workload struct {
	busy  bool
	ended time.Time
}

func (w *workload) add(a *api.AllocationListStub) {
	if a.JobType == api.JobTypeSystem {
		return
	}
	if ended := (&api.Allocation{ClientStatus: a.ClientStatus}).ClientTerminalStatus(); !ended {
		w.busy = true
	} else if at := time.Unix(0, a.ModifyTime); at.After(w.ended) {
		w.ended = at
	}
}

// DistinctHosts says which allocations must not share a node.
type DistinctHosts int

// NotDistinct is no restriction; the others separate allocations of the same job or of the same group.
const (
	NotDistinct DistinctHosts = iota
	DistinctByJob
	DistinctByGroup
)

// Holds reports whether a node has another allocation with which one must not share it.
func (n Node) Holds(one *api.Allocation, rule DistinctHosts) bool {
	for _, h := range n.Held {
		a := h.Allocation
		if a.ID == one.ID || a.Namespace != one.Namespace || a.JobID != one.JobID {
			continue
		}
		if rule == DistinctByJob || rule == DistinctByGroup && a.TaskGroup == one.TaskGroup {
			return true
		}
	}
	return false
}
