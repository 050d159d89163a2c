package mps

import (
	"context"
	"slices"
)

// Faulted reports whether a server of the daemon is in FAULT, and the PIDs of the
// clients that it keeps: their contexts are dead, and until they exit it takes no
// others.
func (c Control) Faulted(ctx context.Context) (clients []int, faulted bool, err error) {
	servers, err := c.Servers(ctx)
	if err != nil {
		return nil, false, err
	}
	ofFault := func(server int) bool {
		status, err := c.Status(ctx, server)
		return err == nil && status == Fault // one that went meanwhile has no status
	}
	if !slices.ContainsFunc(servers, ofFault) {
		return nil, false, nil
	}
	clients, err = c.Clients(ctx)
	return clients, true, err
}
