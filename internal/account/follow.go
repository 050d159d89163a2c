package account

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/consultoken"
)

// Follower reads one node and its allocations from Nomad whenever they change.
type Follower struct {
	// Nomad is the agent of the node.
	Nomad *api.Client
	// NomadTokenFile is read before each request; "" for none.
	NomadTokenFile string
	// Before, if it is set, is called before each request. Its error is reported to Problem but
	// does not prevent the request.
	Before func(context.Context) error
	// Changed gets the node and its allocations after each request, even if nothing has changed.
	Changed func(*api.Node, []*api.Allocation)
	// Problem gets the errors of requests, each new text once.
	Problem func(error)

	node  string // ID
	index uint64 // of the allocations
}

const (
	// queryWait is how long one query of the allocations may block. Changes that do not end the query,
	// such as an unhealthy GPU, are seen after this time.
	queryWait = 10 * time.Second
	// retryPause is the pause after a failure.
	retryPause = 2 * time.Second
)

// Run follows until the context ends.
func (f Follower) Run(ctx context.Context) {
	logged := ""
	for ctx.Err() == nil {
		err := f.step(ctx)
		if err == nil {
			logged = ""
			continue
		}
		if text := err.Error(); text != logged && ctx.Err() == nil {
			logged = text
			f.Problem(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

// step waits for a change of the node's allocations.
func (f *Follower) step(ctx context.Context) error {
	if f.NomadTokenFile != "" {
		token, err := consultoken.Read(f.NomadTokenFile)
		if err != nil {
			return err
		}
		f.Nomad.SetSecretID(token)
	}
	if f.node == "" {
		id, err := nodeID(f.Nomad)
		if err != nil {
			return err
		}
		f.node = id
	}
	var problem error
	if f.Before != nil {
		problem = f.Before(ctx)
	}
	q := (&api.QueryOptions{AllowStale: true, WaitIndex: f.index, WaitTime: queryWait}).WithContext(ctx)
	allocations, meta, err := f.Nomad.Nodes().Allocations(f.node, q)
	if err != nil {
		return fmt.Errorf("cannot read the allocations of this node: %w", err)
	}
	node, _, err := f.Nomad.Nodes().Info(f.node, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot read this node: %w", err)
	}
	f.index = meta.LastIndex
	f.Changed(node, allocations)
	return problem
}

// Taken returns the IDs of the device instances of allocations that have not ended.
func Taken(allocations []*api.Allocation) map[string]bool {
	out := map[string]bool{}
	for _, a := range allocations {
		if a.ClientTerminalStatus() || a.AllocatedResources == nil {
			continue
		}
		for _, r := range a.AllocatedResources.Tasks {
			for _, d := range r.Devices {
				for _, id := range d.DeviceIDs {
					out[id] = true
				}
			}
		}
	}
	return out
}

// nodeID returns the ID of an agent's node.
func nodeID(client *api.Client) (string, error) {
	self, err := client.Agent().Self()
	if err != nil {
		return "", fmt.Errorf("cannot ask the Nomad agent at %s which node this is: %w", client.Address(), err)
	}
	stats := self.Stats["client"]
	id := stats["node_id"]
	if id == "" {
		return "", fmt.Errorf("the Nomad agent at %s is not a client", client.Address())
	}
	return id, nil
}
