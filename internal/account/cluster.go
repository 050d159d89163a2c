package account

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// Node is the account of one node with GPUs.
type Node struct {
	ID, Name string
	// Open is set where the servers place on it.
	Open bool
	Free pack.Node
	Held []Held
}

// Cluster returns the accounts of all nodes with GPUs, by name. The allocations that
// the token may not see are missing in them.
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
	for _, a := range list {
		on[a.NodeID] = append(on[a.NodeID], &api.Allocation{
			ID: a.ID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, JobID: a.JobID, TaskGroup: a.TaskGroup,
			ClientStatus: a.ClientStatus, DesiredStatus: a.DesiredStatus, DeploymentStatus: a.DeploymentStatus,
			AllocatedResources: a.AllocatedResources,
		})
	}
	var out []Node
	for _, stub := range stubs {
		free, held := Of(&api.Node{NodeResources: stub.NodeResources, ReservedResources: stub.ReservedResources},
			on[stub.ID])
		if len(free.Groups) == 0 || stub.Status == api.NodeStatusDown {
			continue
		}
		open := stub.Status == api.NodeStatusReady && stub.SchedulingEligibility == api.NodeSchedulingEligible
		out = append(out, Node{ID: stub.ID, Name: stub.Name, Open: open, Free: free, Held: held})
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// Apart says which allocations must not share a node.
type Apart int

// Together is no rule; the others part what is of one job or of one group.
const (
	Together Apart = iota
	ApartByJob
	ApartByGroup
)

// Holds reports whether a node holds another allocation that one must not share it with.
func (n Node) Holds(one *api.Allocation, rule Apart) bool {
	for _, h := range n.Held {
		a := h.Allocation
		if a.ID == one.ID || a.Namespace != one.Namespace || a.JobID != one.JobID {
			continue
		}
		if rule == ApartByJob || rule == ApartByGroup && a.TaskGroup == one.TaskGroup {
			return true
		}
	}
	return false
}
