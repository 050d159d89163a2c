package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// Members are the addresses of the live caches.
type Members struct {
	self    string
	mu      sync.Mutex
	all     []string
	changed chan struct{} // closed when all changes, and replaced
}

// NewMembers returns Members with the peers that are known from the start. self is the address of
// this node for the others.
func NewMembers(self string, known []string) *Members {
	m := &Members{self: self, changed: make(chan struct{})}
	m.set(known)
	return m
}

func (m *Members) set(peers []string) {
	all := append(slices.Clone(peers), m.self)
	slices.Sort(all)
	all = slices.Compact(all)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(all, m.all) {
		m.all = all
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

// Changed returns a channel that is closed when the peers change.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Peers returns the address of this node, and all peers including this node.
func (m *Members) Peers() (self string, peers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self, m.all
}

// Follow reads the peers from a service in Consul until ctx ends. While Consul does not answer, it
// keeps the last known ones.
func (m *Members) Follow(ctx context.Context, client *api.Client, service string, log *slog.Logger) {
	index := uint64(0)
	for ctx.Err() == nil {
		entries, meta, err := client.Health().Service(service, "", true,
			(&api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}).WithContext(ctx))
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("Consul does not answer; keeping the last known peers", "error", err)
			}
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
			}
			index = 0
			continue
		}
		index = meta.LastIndex
		var peers []string
		for _, e := range entries {
			peers = append(peers, Address(e))
		}
		m.set(peers)
		log.Info("peers", "count", len(peers))
	}
}

// Address returns the address of an instance.
func Address(e *api.ServiceEntry) string {
	host := e.Service.Address
	if host == "" {
		host = e.Node.Address
	}
	return net.JoinHostPort(host, strconv.Itoa(e.Service.Port))
}

// Register registers this node's cache in Consul, with a check of its port, and returns a function
// that deregisters it.
func Register(client *api.Client, service, self string) (deregister func(), err error) {
	host, port, err := net.SplitHostPort(self)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", self, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", self, err)
	}
	id := service + "-" + self
	err = client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: service, Address: host, Port: number,
		Check: &api.AgentServiceCheck{TCP: self, Interval: "2s", Timeout: "1s", Status: api.HealthPassing,
			DeregisterCriticalServiceAfter: "10m"},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot register in Consul: %w", err)
	}
	return func() { _ = client.Agent().ServiceDeregister(id) }, nil
}
