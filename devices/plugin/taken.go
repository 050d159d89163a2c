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

// taken are the device instances that allocations hold by Nomad's account, none before
// it was read. Reserve is no such account: Nomad does not tell a plugin when a task has ended.
type taken struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (t *taken) now() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ids
}

// set reports whether it is news.
func (t *taken) set(ids map[string]bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := !maps.Equal(t.ids, ids)
	t.ids = ids
	return news
}

// follow reads the account of this node until the loop ends. While Nomad cannot be
// asked, what it said last holds.
func (l *loop) follow(ctx context.Context) {
	config := api.DefaultConfig()
	if a := l.config.Packing.NomadAddress; a != "" {
		config.Address = a
	}
	problem := func(err error) {
		l.log.Warn("islands of GPUs do not follow what is free: "+err.Error(), "address", config.Address)
	}
	client, err := api.NewClient(config)
	if err != nil {
		problem(err)
		return
	}
	changed := func(_ *api.Node, allocations []*api.Allocation) {
		if l.taken.set(account.Taken(allocations)) {
			select {
			case l.wake <- struct{}{}:
			default: // a wake-up is waiting already
			}
		}
	}
	f := account.Follower{Nomad: client, NomadTokenFile: l.config.Packing.NomadTokenFile, Changed: changed,
		Problem: problem}
	f.Run(ctx)
}

// switches adds the PCIe switch above each GPU, which the kernel shows alike for all
// vendors.
func (l *loop) switches(found []share.Found) []share.Found {
	for i := range found {
		if found[i].Switch == "" && found[i].PCI != "" {
			found[i].Switch = machine.Root(l.config.Root).PCISwitch(found[i].PCI)
		}
	}
	return found
}
