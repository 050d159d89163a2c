package gateway

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

// service is one model service with its queue and its transports.
type service struct {
	name       string
	config     config.Service
	line       queue
	transports *transports
	metrics    *serviceMetrics
	source     Source
	background *background   // nil until it is started
	requests   *atomic.Int64 // number of requests in progress
	waker      *waker        // nil if the service is never started from zero
	language   *language     // nil if its work is not counted in tokens
	saltKey    []byte        // nil if tenants may share caches
	sleepers   *sleepers     // nil if replicas do not sleep
	remembered *remembered
}

// queue is the line of a service: a line of this gateway alone, or a shared one.
type queue interface {
	Enter(ctx context.Context, p *line.Pass, r dispatch.Request) error
	Again(ctx context.Context, p *line.Pass, o dispatch.Verdict, pause time.Duration) error
	Leave(p *line.Pass, o dispatch.Verdict, pause time.Duration) time.Duration
	Began(p *line.Pass)
	Progress(p *line.Pass, tokens int)
	Settle(p *line.Pass, prompt, cached, output int)

	Set(replicas []line.Replica)
	Adjust(p dispatch.Policy)
	Observe(id string, e dispatch.EngineState)
	Seed(rates map[string]dispatch.Rate)
	Rates() map[string]dispatch.Rate
	State() line.State
	Starving() bool
	StarvesFor(class string) bool
	ToWake(takes time.Duration) (id string, ok bool)
	Working() (queued int, active map[string]int)
	Decides() bool
	Whole() bool
	Concurrency(now time.Time, window time.Duration) []line.Point
}

// Peers are the other gateways, which share lines with this one.
type Peers interface {
	// Listen opens the listener for other gateways.
	Listen() error
	// Run serves other gateways until ctx ends.
	Run(ctx context.Context)
	// Leave tells the other gateways that this one is about to exit.
	Leave()
	// Share creates the shared line of a service.
	Share(service string, o line.Options) *line.Shared
	// Drop ends the line of a removed service.
	Drop(service string, l *line.Shared)
	// Spend reports a tenant's use to the other gateways.
	Spend(tenant string, tokens float64)
	// Spent sets the function that is called for a tenant's use at other gateways.
	Spent(func(tenant string, tokens float64))
	// Live returns the number of other gateways in contact.
	Live() int
}

// Source reports the replicas of one service. Watch calls set whenever they change, until ctx ends.
// It keeps the last replicas while it cannot read new ones.
type Source interface {
	Watch(ctx context.Context, set func([]line.Replica))
}

// newService creates a service without its queue, see giveQueue. It changes nothing outside, because
// a later service of the configuration may fail.
func (s *Server) newService(c config.Service, source Source) (*service, error) {
	v := &service{name: c.Name, config: c, source: source, metrics: s.metrics.of(c.Name), requests: new(atomic.Int64),
		remembered: &remembered{}}
	var err error
	if v.transports, err = newTransports(c.Upstream, s.options.Dial); err != nil {
		return nil, fmt.Errorf("service %q: %w", c.Name, err)
	}
	if c.Wake != nil {
		v.waker = newWaker(c.Name, c.Wake, s.options.Scaler, s.metrics, s.log)
	}
	if c.Engine.Salt {
		if v.saltKey, err = saltKey(c.Engine.SaltKey); err != nil {
			return nil, fmt.Errorf("service %q: %w", c.Name, err)
		}
	}
	return v, nil
}

// giveQueue creates the queue of a new service. With peers it replaces that of the earlier service of
// this name.
func (s *Server) giveQueue(v *service, of *config.Config) {
	c := v.config
	times, firsts := &means{}, &means{}
	o := line.Options{
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
			if v.sleepers != nil {
				v.sleepers.checkSoon()
			}
		},
	}
	if s.options.Peers != nil {
		v.line = s.options.Peers.Share(c.Name, o)
	} else {
		v.line = line.New(o)
	}
	v.language = newLanguage(v)
	if c.Sleep != nil {
		v.sleepers = newSleepers(v, s.metrics, s.log)
	}
}

// policy returns the dispatch policy of a service.
func (s *Server) policy(c config.Service, of *config.Config) dispatch.Policy {
	p := dispatch.Policy{
		Mode: c.Mode, SLO: c.SLO, Theta: c.Queue.Theta, SendAhead: c.Queue.SendAhead,
		Priorities: len(of.Priorities), MaxQueue: c.Queue.Max,
		Tenants: of.Tenants.Limits, Eject: c.Queue.Eject,
		Placements: []dispatch.Placement{{}}, AwaitClass: c.Wake != nil,
	}
	for _, r := range c.Rules {
		p.Placements = append(p.Placements, r.Placement)
	}
	return p
}
