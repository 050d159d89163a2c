package gateway

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/gateway/match"
)

// plan is the part of the configuration that can change while the gateway runs: services, routes
// and tenants. A request keeps the plan under which it arrived.
type plan struct {
	config   *config.Config
	services []*service
	routes   *match.Table
	tenants  tenants
	// arriving counts the requests that may still go to any of the services, by their body or by a
	// fallback.
	arriving atomic.Int64
}

// join adds a request to the plan in force.
func (s *Server) join() *plan {
	for {
		p := s.plan.Load()
		p.arriving.Add(1)
		if s.plan.Load() == p {
			return p
		}
		p.arriving.Add(-1) // the plan was replaced: retire may not have seen this request
	}
}

func (p *plan) find(name string) *service {
	for _, v := range p.services {
		if v.name == name {
			return v
		}
	}
	return nil
}

// newPlan creates the plan of a configuration. A service that continues keeps its queue, its
// replicas and what was learned.
func (s *Server) newPlan(c *config.Config, old *plan) (*plan, error) {
	p := &plan{config: c, routes: match.NewTable(c.Services), tenants: tenants{c.Tenants}}
	var created []*service
	for _, sc := range c.Services {
		was := old.find(sc.Name)
		if was != nil && len(c.Priorities) == len(old.config.Priorities) && continues(was.config, sc) {
			kept := *was
			kept.config = sc
			p.services = append(p.services, &kept)
			continue
		}
		source, err := s.options.Source(sc)
		if err != nil {
			return nil, err
		}
		v, err := s.newService(sc, source)
		if err != nil {
			return nil, err
		}
		if was != nil {
			v.remembered = was.remembered
		}
		p.services, created = append(p.services, v), append(created, v)
	}
	for _, v := range created {
		s.giveQueue(v, c)
	}
	return p, nil
}

// continues reports whether a service can keep its queue.
func continues(was, is config.Service) bool {
	was.Routes, was.Queue, was.Splits, was.Fallback = is.Routes, is.Queue, is.Splits, is.Fallback
	return reflect.DeepEqual(was, is)
}

// Reload puts the services, routes and tenants of a configuration in force. No request is lost:
// earlier requests keep their service. If Reload returns an error, nothing has changed.
func (s *Server) Reload(c *config.Config) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.background == nil {
		return errors.New("the gateway is still starting: try again")
	}
	if s.leaving.Load() {
		return errors.New("the gateway is shutting down")
	}
	old := s.plan.Load()
	if err := needsRestart(s.config, old.config, c); err != nil {
		return err
	}
	next, err := s.newPlan(c, old)
	if err != nil {
		return err
	}
	if !sameProcess(s.config, c) {
		s.log.Warn("changes of listen, admin, access_log, log_level and drain need a restart of the gateway; " +
			"the other changes are in force")
	}
	s.inForce(next, old)
	s.log.Info("configuration reloaded", "services", len(next.services))
	return nil
}

// needsRestart refuses a configuration whose parts the gateway reads only at its start;
// services hold on to them. first is the configuration of the start, old the one in force.
func needsRestart(first, old, c *config.Config) error {
	if !reflect.DeepEqual(c.Consul, old.Consul) || !reflect.DeepEqual(c.Nomad, old.Nomad) {
		return errors.New("the consul or nomad block has changed: restart the gateway")
	}
	if !reflect.DeepEqual(c.Peers, first.Peers) {
		return errors.New("the peers block has changed: restart the gateway")
	}
	return nil
}

// sameProcess reports whether a configuration leaves alone what is set once for the whole
// process.
func sameProcess(first, c *config.Config) bool {
	return reflect.DeepEqual(c.Listen, first.Listen) && c.Admin == first.Admin &&
		c.AccessLog == first.AccessLog && c.LogLevel == first.LogLevel && c.Drain == first.Drain
}

// inForce puts a plan in the place of another one, and retires the services that are gone.
func (s *Server) inForce(next, old *plan) {
	lines := map[any]bool{}
	for _, v := range next.services {
		lines[v.line] = true
		if v.background != nil {
			v.line.Adjust(s.policy(v.config, next.config))
		} else {
			s.start(v)
		}
	}
	s.plan.Store(next)
	s.replaced = append(slices.DeleteFunc(s.replaced, (*plan).settled), old)
	replaced := slices.Clone(s.replaced)
	for _, v := range old.services {
		if !lines[v.line] {
			s.tasks.Go(func() {
				v.retire(s.background, replaced)
				if l, shared := v.line.(*line.Shared); shared {
					s.options.Peers.Drop(v.name, l)
				}
			})
		}
	}
}

// settled reports whether every request of the plan has its service.
func (p *plan) settled() bool { return p.arriving.Load() == 0 }

// retire ends a removed service once all of its requests have ended, and no request of a replaced
// plan can still go to it. Until then waiting requests still get replicas.
func (v *service) retire(ctx context.Context, replaced []*plan) {
	for ctx.Err() == nil && !v.idle(replaced) {
		pause(ctx, 100*time.Millisecond)
	}
	v.background.stop()
	v.transports.close()
}

func (v *service) idle(replaced []*plan) bool {
	for _, p := range replaced {
		if !p.settled() {
			return false
		}
	}
	return v.requests.Load() == 0 // check this last: a request is counted here before its plan settles
}

// background stops the background tasks of a service.
type background struct{ stop context.CancelFunc }

// start starts the background tasks of a service.
func (s *Server) start(v *service) {
	ctx, stop := context.WithCancel(s.background)
	v.background = &background{stop}
	s.tasks.Go(func() { s.watch(ctx, v) })
	if v.sleepers != nil {
		s.tasks.Go(func() { v.sleepers.run(ctx) })
	}
	if v.waker != nil {
		s.tasks.Go(func() { v.waker.run(ctx, v.line) })
	}
}

// startBackground starts the background tasks of the gateway.
func (s *Server) startBackground(ctx context.Context) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	s.background, s.tasks = ctx, new(sync.WaitGroup)
	for _, v := range s.plan.Load().services {
		s.start(v)
	}
	if s.access != nil {
		s.tasks.Go(func() { s.access.run(ctx) })
	}
	if p := s.options.Peers; p != nil {
		p.Spent(s.spentElsewhere)
		s.tasks.Go(func() { p.Run(ctx) })
	}
	if s.options.Rates != nil {
		s.tasks.Go(func() { s.keepRates(ctx) })
	}
	if store, ok := s.options.Rates.(StartStore); ok {
		s.tasks.Go(func() { s.keepStarts(ctx, store) })
	}
}
