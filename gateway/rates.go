package gateway

import (
	"context"
	"maps"
	"reflect"
	"time"

	"aliquot.example/internal/dispatch"
)

// RateStore keeps learned rates where other gateways and the router find them.
type RateStore interface {
	// Load returns the rates of a service that any gateway published.
	Load(ctx context.Context, service string) (map[string]dispatch.Rate, error)
	// Profiles returns a figure for each service that was benchmarked, which changes with
	// its profiles.
	Profiles(ctx context.Context) (map[string]uint64, error)
	// Save publishes this gateway's rates of a service.
	Save(ctx context.Context, service string, rates map[string]dispatch.Rate, now time.Time) error
}

const (
	// publishEvery is how often learned rates are published, if they changed.
	publishEvery = 10 * time.Second
	// profiledEvery is after how many of these new profiles are looked for.
	profiledEvery = 6
)

// keepRates starts from what was learned before and publishes what is learned.
func (s *Server) keepRates(ctx context.Context) {
	saved, profiles := publishedRates{}, map[string]uint64(nil)
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		if i%profiledEvery == 0 {
			profiles = s.takeProfiles(ctx, profiles)
		}
		s.publishRates(ctx, saved)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// publishedRates are the rates that were published last, of every line that has what
// was learned before.
type publishedRates map[queue]published

// published is what became of the rates of one line.
type published struct {
	rates   map[string]dispatch.Rate
	decides bool // this gateway decided, so that the rates are of the whole service
}

// publishRates seeds the lines that are new and publishes the rates that changed. It
// forgets the lines of services that are gone, each of which holds a whole queue.
func (s *Server) publishRates(ctx context.Context, saved publishedRates) {
	services := s.plan.Load().services
	present := make(map[queue]bool, len(services))
	for _, v := range services {
		present[v.line] = true
	}
	maps.DeleteFunc(saved, func(l queue, _ published) bool { return !present[l] })
	for _, v := range services {
		decides := v.line.Decides()
		if was, ok := saved[v.line]; !ok || decides && !was.decides {
			if !s.seed(ctx, v) {
				continue // what would be published lacks what was learned before
			}
		}
		was := saved[v.line]
		saved[v.line] = published{was.rates, decides}
		rates := v.line.Rates()
		if !decides || len(rates) == 0 || reflect.DeepEqual(rates, was.rates) {
			continue
		}
		if err := s.options.Rates.Save(ctx, v.name, rates, time.Now()); err != nil {
			s.log.Warn("learned rates could not be published", "service", v.name, "error", err)
			continue
		}
		saved[v.line] = published{rates, true}
	}
}

// seed gives a service the rates that were learned before, and reports whether they
// could be read.
func (s *Server) seed(ctx context.Context, v *service) bool {
	rates, err := s.options.Rates.Load(ctx, v.name)
	if err != nil {
		s.log.Warn("learned rates could not be read", "service", v.name, "error", err)
		return false
	}
	v.line.Seed(rates)
	return true
}

// takeProfiles seeds the services of which profiles have changed again, so that a class
// that was benchmarked today is known when its first replica comes. It returns what there
// is now; before is nil at the first time, when all lines are about to be seeded anyway.
func (s *Server) takeProfiles(ctx context.Context, before map[string]uint64) map[string]uint64 {
	now, err := s.options.Rates.Profiles(ctx)
	if err != nil {
		return before // which publishRates warns of, as it asks the same Consul
	}
	for _, v := range s.plan.Load().services {
		if before != nil && now[v.name] != before[v.name] && !s.seed(ctx, v) {
			return before
		}
	}
	return now
}

// announceEvery is how often the gateway sees to it that it is announced: an agent
// that lost its data knows it no more.
const announceEvery = 10 * time.Second

// announceWithin bounds one announcement, which asks the agent two to four times: a slow one
// is waited for, one that hangs is asked again.
const announceWithin = 20 * time.Second

// register announces the gateway until ctx ends.
func (s *Server) register(ctx context.Context, r Registrar) {
	public, admin := s.Addresses()
	failed := time.Second
	for ctx.Err() == nil {
		err := s.announce(ctx, r, public, admin)
		wait := announceEvery
		if err != nil {
			s.log.Warn("registration failed", "error", err)
			wait = failed
		}
		failed = time.Second
		if err != nil {
			failed = min(2*wait, 30*time.Second)
		}
		pause(ctx, wait)
	}
}

func (s *Server) announce(ctx context.Context, r Registrar, public, admin string) error {
	s.announcing.Lock()
	defer s.announcing.Unlock()
	if s.leaving.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceWithin)
	defer cancel()
	return r.Register(ctx, public, admin)
}
