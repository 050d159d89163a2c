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

// service is one model service: its queue, its replicas and the way to them.
type service struct {
	name       string
	config     config.Service
	line       queue
	transports *transports
	metrics    *serviceMetrics
	source     Source
	background *background   // nil until it is started
	requests   *atomic.Int64 // under way
	waker      *waker        // nil when the service is never started from zero
	language   *language     // nil when its work is not counted in tokens
	saltKey    []byte        // nil where tenants may share caches
	nights     *nights       // nil where replicas do not sleep
	remembered *remembered
}

// queue is the line of a service: this gateway's own, or one that it shares.
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
	Rouse(takes time.Duration) (id string, ok bool)
	Working() (queued int, active map[string]int)
	Decides() bool
	Whole() bool
	Concurrency(now time.Time, window time.Duration) []line.Point
}

// Peers are the other gateways, with which lines are shared.
type Peers interface {
	// Listen opens the listener for them; Run serves until ctx ends.
	Listen() error
	Run(ctx context.Context)
	// Leave says that this gateway is about to end.
	Leave()
	// Share makes the line of a service; Drop ends one whose service is gone.
	Share(service string, o line.Options) *line.Shared
	Drop(service string, l *line.Shared)
	// Spend says what a tenant used here; Spent has what it uses elsewhere reported.
	Spend(tenant string, tokens float64)
	Spent(func(tenant string, tokens float64))
	// Live is how many others are heard.
	Live() int
}

// Source reports the replicas of one service, whenever they change, until ctx
// ends. It keeps the last replicas it knew while it cannot learn of new ones.
type Source interface {
	Watch(ctx context.Context, set func([]line.Replica))
}

func (s *Server) newService(c config.Service, of *config.Config, source Source) (*service, error) {
	v := &service{name: c.Name, config: c, source: source, metrics: s.metrics.of(c.Name), requests: new(atomic.Int64),
		remembered: &remembered{}}
	var err error
	if v.transports, err = newTransports(c.Upstream, s.options.Dial); err != nil {
		return nil, fmt.Errorf("service %q: %w", c.Name, err)
	}
	times, firsts := &means{}, &means{}
	if c.Wake != nil {
		v.waker = newWaker(c.Name, c.Wake, s.options.Scaler, s.metrics, s.log)
	}
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
			if v.nights != nil {
				v.nights.look()
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
