package aliquot

import (
	"context"
	"fmt"
	"slices"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// mpsUnseen returns why a task may not have become a client of its MPS daemon: it runs as another user
// than the daemon's clients and has to wait, or it does not reach the daemon.
func mpsUnseen(ctx context.Context, at look, g gpu.Grant) string {
	if g.Sharing != gpu.SharingMPS {
		return ""
	}
	if clients, err := at.mps.Clients(ctx, at.set.mpsControl, g.Pipe); err == nil {
		if why := otherUser(usersOf(machine.Running, clients),
			usersOf(machine.Running, inside(machine.Running, at.container))); why != "" {
			return why
		}
	}
	return "; CUDA runs without MPS, and without the granted limits, when it cannot reach the daemon"
}

// otherUser compares the users of a daemon's clients with those of a task. A daemon serves one user at a
// time, and all others wait (docs.nvidia.com/deploy/mps).
func otherUser(served, own []uint32) string {
	if len(served) == 0 || len(own) == 0 || slices.ContainsFunc(own, func(u uint32) bool {
		return slices.Contains(served, u)
	}) {
		return ""
	}
	return fmt.Sprintf("; the task runs as user %d, but the daemon serves user %d and makes others wait: "+
		"run all tasks of this GPU as one user, or set mps_multi_user = true in the device plugin's configuration",
		own[0], served[0])
}
