package account

import (
	"context"
	"maps"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// Watcher publishes the levels for packing policies of one node.
type Watcher struct {
	// Nomad is the agent of the node.
	Nomad *api.Client
	// NomadTokenFile is read before each request; "" for none.
	NomadTokenFile string
	// Consul may be nil.
	Consul *consul.Client
	// DemandFile replaces the demand in Consul; "" for none.
	DemandFile string
	// Publish gets the attributes whenever one of them has changed. A removed attribute has the
	// value "".
	Publish func(map[string]string)
	// Problem gets the errors of requests, each new text once.
	Problem func(error)
}

// ask is the interval at which the typical demand is read.
const ask = time.Minute

// Run publishes until the context ends. While Nomad does not answer, the published levels stay,
// because the node's tasks continue to run.
func (w Watcher) Run(ctx context.Context) {
	s := state{Watcher: w, published: map[string]string{}}
	changed := func(node *api.Node, allocations []*api.Allocation) {
		free, _ := Of(node, allocations)
		s.publish(free)
	}
	f := Follower{Nomad: w.Nomad, NomadTokenFile: w.NomadTokenFile, Before: s.learn, Changed: changed,
		Problem: w.Problem}
	f.Run(ctx)
}

// state is the state of a Watcher.
type state struct {
	Watcher
	demand    pack.Demand
	classes   []pack.Class
	asked     time.Time // when the demand was read
	published map[string]string
}

// learn reads the demand if the interval has passed. After an error, the last demand stays.
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
	if len(free.Groups) > 0 { // without levels, a node without GPUs ranks first for tasks without GPUs
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
