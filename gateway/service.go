package gateway

import (
	"context"
	"fmt"

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
	waker      *waker    // nil when the service is never started from zero
	language   *language // nil when its work is not counted in tokens
}

// Source reports the replicas of one service, whenever they change, until ctx
// ends. It keeps the last replicas it knew while it cannot learn of new ones.
type Source interface {
	Watch(ctx context.Context, set func([]line.Replica))
}

func (s *Server) newService(c config.Service, source Source) (*service, error) {
	v := &service{name: c.Name, config: c, source: source, metrics: s.metrics.of(c.Name)}
	var err error
	if v.transports, err = newTransports(c.Upstream, s.options.Dial); err != nil {
		return nil, fmt.Errorf("service %q: %w", c.Name, err)
	}
	times := &means{}
	policy := dispatch.Policy{
		Mode: c.Mode, SLO: c.SLO, Theta: c.Queue.Theta, Priorities: len(s.config.Priorities), MaxQueue: c.Queue.Max,
		Tenants: s.config.Tenants.Limits, Eject: c.Queue.Eject,
		Placements: []dispatch.Placement{{}}, AwaitClass: c.Wake != nil,
	}
	for _, r := range c.Rules {
		policy.Placements = append(policy.Placements, r.Placement)
	}
	if c.Wake != nil {
		v.waker = newWaker(c.Name, c.Wake, s.options.Scaler, s.metrics, s.log)
	}
	v.line = line.New(line.Options{
		Policy: policy,
		Value: func(class string) any {
			return s.metrics.ofClass(&c, class, times)
		},
		Starved: func() {
			if v.waker != nil {
				v.waker.ask()
			}
		},
	})
	v.language = newLanguage(v)
	return v, nil
}
