package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/weigh"
)

const (
	longPoll = 5 * time.Minute
	// sharedDelay is about the longest delay until a change is seen if there are more services than
	// connections, so that their watches take turns.
	sharedDelay = 1500 * time.Millisecond
	// servicesPause limits how often the list of services is read: every registration in the
	// catalog wakes its watch.
	servicesPause = 500 * time.Millisecond
	// ratesPause limits how often rates are read while many gateways write them.
	ratesPause = time.Second
)

// watch calls poll in a loop with the index that it last returned, and backs off while it fails.
func (r *Router) watch(ctx context.Context, what string, poll func(index uint64) (uint64, error)) {
	var index uint64
	failures := 0
	for ctx.Err() == nil {
		next, err := poll(index)
		if ctx.Err() != nil {
			return
		}
		r.trouble(what, err)
		if err != nil {
			kind, _, _ := strings.Cut(what, " ")
			r.metrics.errors.WithLabelValues(kind).Inc()
			if failures == 0 {
				r.log.Warn("watch failed; trying again", "watch", what, "error", hint(err))
			}
			failures++
			// Jitter keeps the watches from retrying at the same time.
			wait := min(100*time.Millisecond<<min(failures, 10), 5*time.Second)
			Pause(ctx, wait/2+rand.N(wait))
			index = 0
			continue
		}
		if failures > 0 {
			r.log.Info("watch works again", "watch", what)
			failures = 0
		}
		if next < index {
			next = 0 // Consul was restored or restarted: read everything again
		}
		index = next
	}
}

// hint adds a remedy to those errors of Consul that have one usual cause.
func hint(err error) error {
	const policy = "the token needs the policy in jobs/router-policy.hcl"
	var status api.StatusError
	switch {
	case errors.Is(err, ErrFiltered):
		return fmt.Errorf("%w: %s", err, policy)
	case !errors.As(err, &status):
	case status.Code == http.StatusTooManyRequests:
		return fmt.Errorf("%w: raise limits.http_max_conns_per_client of the Consul agent, "+
			"or lower consul max_connections here", err)
	case status.Code == http.StatusForbidden, strings.Contains(status.Body, "Permission denied"):
		// If an agent forwards the request, it returns the server's refusal as 500.
		return fmt.Errorf("%w: %s", err, policy)
	}
	return err
}

// ErrFiltered means that Consul left out entries that the token may not read. The router ignores
// such a response, in which these entries look deleted, and keeps its last state.
var ErrFiltered = errors.New("the token may not read all entries")

// watchServices watches which services opt in by meta.
func (r *Router) watchServices(ctx context.Context) {
	r.watch(ctx, "services", func(index uint64) (uint64, error) {
		names, next, err := r.catalog.Services(ctx, index, longPoll)
		if err != nil {
			return 0, err
		}
		opted := map[string]bool{}
		for _, name := range names {
			if err := weigh.CheckService(name); err != nil {
				r.log.Warn("service ignored", "error", err)
				continue
			}
			opted[name] = true
		}
		r.mu.Lock()
		changed := !maps.Equal(opted, r.opted)
		r.opted = opted
		r.mu.Unlock()
		if changed {
			r.track()
		}
		Pause(ctx, servicesPause)
		return next, nil
	})
}

// track starts and ends watches, so that exactly the services are watched that opt in or have
// entries of ours.
func (r *Router) track() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return
	}
	wanted := maps.Clone(r.opted)
	for name, s := range r.config.Services {
		if s.Route != nil && *s.Route {
			wanted[name] = true
		}
	}
	for _, s := range r.cache {
		if s.Ours {
			wanted[s.Service] = true
		}
	}
	for name, s := range r.services {
		if !wanted[name] {
			s.cancel()
			delete(r.services, name)
			delete(r.failures, "instances of "+name)
		}
	}
	for name := range wanted {
		if r.services[name] == nil && weigh.CheckService(name) == nil {
			ctx, cancel := context.WithCancel(r.ctx)
			s := &service{name: name, cancel: cancel, seen: map[string]time.Time{}, last: map[string]weigh.Instance{}}
			r.services[name] = s
			go r.watchInstances(ctx, s)
		}
	}
}

// watchInstances watches one service. If there are fewer connections than services, watches take
// turns with shorter waits.
func (r *Router) watchInstances(ctx context.Context, s *service) {
	r.watch(ctx, "instances of "+s.name, func(index uint64) (uint64, error) {
		if err := r.polls.Acquire(ctx, 1); err != nil {
			return 0, err
		}
		defer r.polls.Release(1)
		found, next, err := r.catalog.Instances(ctx, s.name, index, r.pollWait())
		if err != nil || index != 0 && next == index {
			return next, err
		}
		r.observe(s, found)
		return next, nil
	})
}

func (r *Router) pollWait() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.services) <= r.maxPolls {
		return longPoll
	}
	return max(50*time.Millisecond, sharedDelay*time.Duration(r.maxPolls)/time.Duration(len(r.services)))
}

// observe stores the instances of a service that its watch has found.
func (r *Router) observe(s *service, found []Registered) {
	var instances []weigh.Instance
	var refused []string
	var outside []weigh.Refused
	opted := false
	for _, reg := range found {
		opted = opted || reg.Meta[gpu.MetaRoute] == "true"
		in, err := weigh.ParseInstance(reg.ID, reg.Meta, reg.Passing)
		if err != nil {
			refused = append(refused, err.Error())
			outside = append(outside, weigh.RefusedBy(reg.Meta))
			continue
		}
		instances = append(instances, in)
	}
	slices.Sort(refused)
	now := time.Now()
	r.mu.Lock()
	if fresh := slices.DeleteFunc(slices.Clone(refused), func(e string) bool {
		return slices.Contains(s.refused, e)
	}); len(fresh) > 0 {
		r.log.Warn("instances ignored", "service", s.name, "error", strings.Join(fresh[:min(3, len(fresh))], "; "),
			"count", len(fresh))
	}
	// A group of the last response had instances until now.
	for _, in := range s.instances {
		s.seen[in.Group.Name()] = now
	}
	for _, in := range instances {
		s.seen[in.Group.Name()] = now
	}
	s.instances, s.refused, s.outside, s.registered, s.known = instances, refused, outside, len(found), true
	if len(found) > 0 {
		s.opted = opted
	}
	r.mu.Unlock()
	r.queue.add(s.name)
}

// watchRates watches the rates that gateways learn.
func (r *Router) watchRates(ctx context.Context) {
	prefix := r.Config().Rates
	r.watch(ctx, "rates", func(index uint64) (uint64, error) {
		found, next, err := r.catalog.Rates(ctx, index, longPoll)
		if err != nil {
			return 0, err
		}
		rates, notes := map[string][]learned.Rates{}, map[string][]string{}
		for service, texts := range found {
			for _, text := range texts {
				one, errs := learned.ParseRates(text)
				rates[service] = append(rates[service], one)
				for _, err := range errs {
					notes[service] = append(notes[service], fmt.Sprintf("%s/%s: %v", prefix, service, err))
				}
			}
		}
		for _, service := range r.takeRates(rates, notes) {
			r.queue.add(service)
		}
		Pause(ctx, ratesPause)
		return next, nil
	})
}

// watchProfiles watches benchmark profiles.
func (r *Router) watchProfiles(ctx context.Context) {
	r.watch(ctx, "profiles", func(index uint64) (uint64, error) {
		listed, err := r.catalog.Profiles(ctx, index, longPoll)
		if err != nil {
			return 0, err
		}
		r.mu.Lock()
		var changed []string
		for name := range r.services {
			if listed.Version[name] != r.profiles.Version[name] {
				changed = append(changed, name)
			}
		}
		r.profiles = listed
		r.mu.Unlock()
		for _, service := range changed {
			r.queue.add(service)
		}
		if listed.Index == 0 { // the token may not read profiles
			Pause(ctx, time.Minute)
		}
		Pause(ctx, ratesPause)
		return listed.Index, nil
	})
}

// takeRates stores new rates and returns the services whose rates changed.
func (r *Router) takeRates(rates map[string][]learned.Rates, notes map[string][]string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changed []string
	for name := range r.services {
		if !reflect.DeepEqual(rates[name], r.rates[name]) || !slices.Equal(notes[name], r.notes[name]) {
			changed = append(changed, name)
		}
	}
	r.rates, r.notes = rates, notes
	return changed
}
