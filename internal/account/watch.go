package account

import (
	"context"
	"fmt"
	"maps"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"aliquot/internal/consultoken"
	"aliquot/internal/pack"
)

// Watcher follows the account of one node.
type Watcher struct {
	// Nomad is the agent of the node.
	Nomad *api.Client
	// NomadTokenFile is read before each question; "" for none.
	NomadTokenFile string
	// Consul may be nil.
	Consul *consul.Client
	// DemandFile replaces the demand in Consul; "" for none.
	DemandFile string
	// Publish takes the attributes whenever one of them changed. An attribute that is
	// not published any more has the value "".
	Publish func(map[string]string)
	// Problem takes why the account cannot be read, once for each new reason.
	Problem func(error)
}

const (
	// look is how long one query of the allocations may block: what it does not wake
	// for, such as a GPU that fell ill, is seen after it.
	look = 10 * time.Second
	// ask is how often the typical demand is read.
	ask = time.Minute
	// again is how long after a failure the account is read again.
	again = 2 * time.Second
)

// Run publishes until the context ends. The levels that were published stay while
// Nomad cannot be asked: what runs on the node goes on.
func (w Watcher) Run(ctx context.Context) {
	s := state{Watcher: w, published: map[string]string{}}
	said := ""
	for ctx.Err() == nil {
		err := s.step(ctx)
		if err == nil {
			said = ""
			continue
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			w.Problem(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// state is what a Watcher knows.
type state struct {
	Watcher
	node      string // ID
	demand    pack.Demand
	classes   []pack.Class
	asked     time.Time // when the demand was read
	index     uint64    // of the allocations
	published map[string]string
}

// step waits for a change of the node's allocations and publishes what follows.
func (s *state) step(ctx context.Context) error {
	if s.NomadTokenFile != "" {
		token, err := consultoken.Read(s.NomadTokenFile)
		if err != nil {
			return err
		}
		s.Nomad.SetSecretID(token)
	}
	if s.node == "" {
		id, err := nodeID(s.Nomad)
		if err != nil {
			return err
		}
		s.node = id
	}
	problem := s.learn(ctx)
	q := (&api.QueryOptions{AllowStale: true, WaitIndex: s.index, WaitTime: look}).WithContext(ctx)
	allocations, meta, err := s.Nomad.Nodes().Allocations(s.node, q)
	if err != nil {
		return fmt.Errorf("cannot read the allocations of this node: %w", err)
	}
	node, _, err := s.Nomad.Nodes().Info(s.node, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot read this node: %w", err)
	}
	s.index = meta.LastIndex
	free, _ := Of(node, allocations)
	s.publish(free)
	return problem
}

// learn reads the demand where it is due. Without an answer the last one stays.
func (s *state) learn(ctx context.Context) error {
	if s.demand != nil && time.Since(s.asked) < ask {
		return nil
	}
	s.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, _, err := Demand(ctx, s.DemandFile, s.Consul)
	if err != nil {
		if s.demand != nil {
			return err
		}
		d = pack.Start()
	}
	s.demand, s.classes = d, d.Classes()
	return err
}

func (s *state) publish(free pack.Node) {
	next := map[string]string{}
	if len(free.Groups) > 0 { // a node without GPUs stays without levels, and so comes first for tasks without
		next = s.demand.Attributes(s.classes, free)
	}
	for name := range s.published {
		if _, ok := next[name]; !ok {
			next[name] = ""
		}
	}
	if maps.Equal(next, s.published) {
		return
	}
	s.published = next
	s.Publish(maps.Clone(next))
}

// nodeID asks an agent for the ID of its node.
func nodeID(client *api.Client) (string, error) {
	self, err := client.Agent().Self()
	if err != nil {
		return "", fmt.Errorf("cannot ask the Nomad agent at %s which node this is: %w", client.Address(), err)
	}
	stats := self.Stats["client"]
	id := stats["node_id"]
	if id == "" {
		return "", fmt.Errorf("the Nomad agent at %s is no client", client.Address())
	}
	return id, nil
}
