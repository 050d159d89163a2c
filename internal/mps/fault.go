package mps

import (
	"context"
	"slices"
)

// Faulted reports whether a server of the daemon is in FAULT, and returns the PIDs of its clients.
// The contexts of these are lost, and the server accepts no others until they exit.
func (c Control) Faulted(ctx context.Context) (clients []int, faulted bool, err error) {
	servers, err := c.Servers(ctx)
	if err != nil {
		return nil, false, err
	}
	ofFault := func(server int) bool {
		status, err := c.Status(ctx, server)
		return err == nil && status == Fault // a server that has ended meanwhile has no status
	}
	if !slices.ContainsFunc(servers, ofFault) {
		return nil, false, nil
	}
	clients, err = c.Clients(ctx)
	return clients, true, err
}
