package plugin

import (
	"context"
	"maps"
	"sync"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// heldInstances has the device instances that allocations hold according to Nomad; it is empty before the
// first reading. Calls to Reserve cannot replace it, because Nomad does not notify a plugin when a
// task has ended.
type heldInstances struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (t *heldInstances) now() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ids
}

// set replaces the instances and reports whether they changed.
func (t *heldInstances) set(ids map[string]bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := !maps.Equal(t.ids, ids)
	t.ids = ids
	return news
}

// follow reads this node's allocations from Nomad until the loop ends. While Nomad does not answer,
// the last reading applies.
func (l *loop) follow(ctx context.Context) {
	config := api.DefaultConfig()
	if a := l.config.Packing.NomadAddress; a != "" {
		config.Address = a
	}
	problem := func(err error) {
		l.log.Warn("the islands' attributes may list GPUs that are in use: "+err.Error(), "address", config.Address)
	}
	client, err := api.NewClient(config)
	if err != nil {
		problem(err)
		return
	}
	changed := func(_ *api.Node, allocations []*api.Allocation) {
		if l.heldInstances.set(account.Taken(allocations)) {
			select {
			case l.wake <- struct{}{}:
			default: // a wake-up is already pending
			}
		}
	}
	f := account.Follower{Nomad: client, NomadTokenFile: l.config.Packing.NomadTokenFile, Changed: changed,
		Problem: problem}
	f.Run(ctx)
}

// switches adds the PCIe switch above each GPU, which the kernel shows for all vendors in the same
// way.
func (l *loop) switches(found []share.Found) []share.Found {
	for i := range found {
		if found[i].Switch == "" && found[i].PCI != "" {
			found[i].Switch = machine.Root(l.config.Root).PCISwitch(found[i].PCI)
		}
	}
	return found
}
