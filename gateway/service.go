package gateway

import (
	"context"
	"fmt"
	"sync/atomic"

	"aliquot/gateway/config"
	"aliquot/gateway/line"
	"aliquot/internal/dispatch"
)

// service is one model service: its queue, its replicas and the way to them.
type service struct {
	name       string
	config     config.Service
	line       *line.Line
	transports *transports
	metrics    *serviceMetrics
	source     Source
	background *background   // nil until it is started
	requests   *atomic.Int64 // under way
	waker      *waker        // nil when the service is never started from zero
	language   *language     // nil when its work is not counted in tokens
	saltKey    []byte        // nil where tenants may share caches
	nights     *nights       // nil where replicas do not sleep
}

// Source reports the replicas of one service, whenever they change, until ctx
// ends. It keeps the last replicas it knew while it cannot learn of new ones.
type Source interface {
	Watch(ctx context.Context, set func([]line.Replica))
}

func (s *Server) newService(c config.Service, of *config.Config, source Source) (*service, error) {
	v := &service{name: c.Name, config: c, source: source, metrics: s.metrics.of(c.Name), requests: new(atomic.Int64)}
	var err error
	if v.transports, err = newTransports(c.Upstream, s.options.Dial); err != nil {
		return nil, fmt.Errorf("service %q: %w", c.Name, err)
	}
	times, firsts := &means{}, &means{}
	if c.Wake != nil {
		v.waker = newWaker(c.Name, c.Wake, s.options.Scaler, s.metrics, s.log)
	}
	v.line = line.New(line.Options{
		Policy: s.policy(c, of),
		Value: func(class string) any {
			return s.metrics.ofClass(&c, class, times, firsts)
		},
		Starved: func() {
			if v.waker != nil {
				v.waker.ask()
			}
		},
		Waits: func() {
			if v.nights != nil {
				v.nights.look()
			}
		},
	})
	v.language = newLanguage(v)
	if c.Sleep != nil {
		v.nights = newNights(v, s.metrics, s.log)
	}
	if c.Engine.Salt {
		if v.saltKey, err = saltKey(c.Engine.SaltKey); err != nil {
			return nil, fmt.Errorf("service %q: %w", c.Name, err)
		}
	}
	return v, nil
}

// policy is how a service's queue decides.
func (s *Server) policy(c config.Service, of *config.Config) dispatch.Policy {
	p := dispatch.Policy{
		Mode: c.Mode, SLO: c.SLO, Theta: c.Queue.Theta, Priorities: len(of.Priorities), MaxQueue: c.Queue.Max,
		Tenants: of.Tenants.Limits, Eject: c.Queue.Eject,
		Placements: []dispatch.Placement{{}}, AwaitClass: c.Wake != nil,
	}
	for _, r := range c.Rules {
		p.Placements = append(p.Placements, r.Placement)
	}
	return p
}
