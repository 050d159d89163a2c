package gateway

import (
	"context"
	"maps"
	"reflect"
	"time"

	"aliquot.example/internal/dispatch"
)

// RateStore stores learned rates for other gateways and the router.
type RateStore interface {
	// Load returns the rates of a service, merged from all gateways.
	Load(ctx context.Context, service string) (map[string]dispatch.Rate, error)
	// Profiles returns a number for each service with profiles. It changes when one of them changes.
	Profiles(ctx context.Context) (map[string]uint64, error)
	// Save publishes this gateway's rates of a service.
	Save(ctx context.Context, service string, rates map[string]dispatch.Rate, now time.Time) error
}

const (
	// publishInterval is the interval at which changed rates are published.
	publishInterval = 10 * time.Second
	// profileChecks is the number of these intervals between two checks for new profiles.
	profileChecks = 6
)

// keepRates loads the rates of new services, and publishes learned rates, until ctx ends.
func (s *Server) keepRates(ctx context.Context) {
	saved, profiles := publishedRates{}, map[string]uint64(nil)
	tick := time.NewTicker(publishInterval)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		if i%profileChecks == 0 {
			profiles = s.takeProfiles(ctx, profiles)
		}
		s.publishRates(ctx, saved)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// publishedRates are the last published rates of every line that was seeded.
type publishedRates map[queue]published

// published are the last published rates of one line.
type published struct {
	rates   map[string]dispatch.Rate
	decides bool // this gateway was the owner, so the rates cover the whole service
}

// publishRates seeds new lines and publishes changed rates. It drops the lines of removed services,
// each of which holds a whole queue.
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
				continue // without the earlier rates, the published ones would be incomplete
			}
		}
		was := saved[v.line]
		saved[v.line] = published{was.rates, decides}
		rates := v.line.Rates()
		if !decides || len(rates) == 0 || reflect.DeepEqual(rates, was.rates) {
			continue
		}
		if err := s.options.Rates.Save(ctx, v.name, rates, time.Now()); err != nil {
			s.log.Warn("cannot publish learned rates", "service", v.name, "error", err)
			continue
		}
		saved[v.line] = published{rates, true}
	}
}

// seed loads the earlier rates of a service, and reports whether they could be read.
func (s *Server) seed(ctx context.Context, v *service) bool {
	rates, err := s.options.Rates.Load(ctx, v.name)
	if err != nil {
		s.log.Warn("cannot read learned rates", "service", v.name, "error", err)
		return false
	}
	v.line.Seed(rates)
	return true
}

// takeProfiles seeds services again whose profiles have changed, so that a class is known when its
// first replica starts. It returns the present state of the profiles. before is nil the first time,
// when all lines are seeded anyway.
func (s *Server) takeProfiles(ctx context.Context, before map[string]uint64) map[string]uint64 {
	now, err := s.options.Rates.Profiles(ctx)
	if err != nil {
		return before // publishRates logs errors of the same Consul
	}
	for _, v := range s.plan.Load().services {
		if before != nil && now[v.name] != before[v.name] && !s.seed(ctx, v) {
			return before
		}
	}
	if now == nil { // no profile may be read, which can change
		now = map[string]uint64{}
	}
	return now
}

// announceInterval is the interval at which the gateway checks its registration: an agent may lose its
// data.
const announceInterval = 10 * time.Second

// announceTimeout is the timeout of one registration, which sends two to four requests to the agent.
const announceTimeout = 20 * time.Second

// register keeps the gateway registered until ctx ends.
func (s *Server) register(ctx context.Context, r Registrar) {
	public, admin := s.Addresses()
	failed := time.Second
	for ctx.Err() == nil {
		err := s.announce(ctx, r, public, admin)
		wait := announceInterval
		if err != nil {
			s.log.Warn("cannot register the gateway; trying again", "error", err)
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
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	return r.Register(ctx, public, admin)
}
