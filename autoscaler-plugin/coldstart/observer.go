package coldstart

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
)

// Observer watches services while they are queried and records how long each new replica took to
// start. It remembers which replicas it has seen. After a restart it ignores replicas that are
// already healthy, because it does not know when they became so.
type Observer struct {
	consul *consul.Client
	nomad  *nomad.Client

	mu       sync.Mutex
	services map[string]*watch
}

type watch struct {
	busy bool
	next time.Time
	// seen is when replicas were last seen healthy, by service ID. It is nil before the first observation.
	seen map[string]time.Time
	// unrecorded are the replicas that are not recorded yet, by service ID.
	unrecorded map[string]newReplica
}

// newReplica is a replica that has just become healthy.
type newReplica struct {
	at    time.Time // when it was first seen healthy
	class string
}

// NewObserver returns an observer. It uses the Nomad address and token from the settings that the
// agent passes to every plugin.
func NewObserver(client *consul.Client, settings map[string]string) (*Observer, error) {
	n, err := nomad.NewClient(nomadconfig.ConfigFromNamespacedMap(settings))
	if err != nil {
		return nil, fmt.Errorf("nomad: %w", err)
	}
	return &Observer{consul: client, nomad: n, services: map[string]*watch{}}, nil
}

const (
	every   = time.Second
	timeout = 5 * time.Second
	// partsTimeout is how long to wait for the task driver to report the parts of a start.
	partsTimeout = 10 * time.Second
	// remembered is how long a replica that is no longer healthy is remembered.
	remembered = learned.MaxStart
)

// Observe looks at a service's replicas, in the background and at most once per second. It logs
// errors; the policy then keeps its previous value.
func (o *Observer) Observe(service string, now time.Time, log hclog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.services[service]
	if w == nil {
		w = &watch{}
		o.services[service] = w
	}
	if w.busy || now.Before(w.next) {
		return
	}
	w.busy, w.next = true, now.Add(every)
	go func() {
		defer func() {
			if fault := recover(); fault != nil {
				log.Error("recovered from a panic", "in", "cold start observer", "fault", fault)
			}
			o.mu.Lock()
			w.busy = false
			o.mu.Unlock()
		}()
		if err := o.observeOnce(service, w, now); err != nil {
			log.Debug("cold starts are not observed", "service", service, "error", err)
		}
	}()
}

// observeOnce must not run concurrently for the same watch.
func (o *Observer) observeOnce(service string, w *watch, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	entries, _, err := o.consul.Health().Service(service, "", true, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	first := w.seen == nil
	if first {
		w.seen, w.unrecorded = map[string]time.Time{}, map[string]newReplica{}
	}
	for _, e := range entries {
		_, known := w.seen[e.Service.ID]
		w.seen[e.Service.ID] = now
		if !first && !known {
			w.unrecorded[e.Service.ID] = newReplica{now, e.Service.Meta[gpu.MetaClass]}
		}
	}
	maps.DeleteFunc(w.seen, func(_ string, last time.Time) bool { return now.Sub(last) > remembered })
	maps.DeleteFunc(w.unrecorded, func(_ string, f newReplica) bool { return now.Sub(f.at) > remembered })
	return o.write(ctx, service, w, now)
}

// write records the starts that are fully known. A failed lookup does not delay other starts. A
// start that cannot be written is retried at the next observation.
func (o *Observer) write(ctx context.Context, service string, w *watch, now time.Time) error {
	var samples []Sample
	var ids []string
	var errs []error
	for id, f := range w.unrecorded {
		alloc, err := o.allocation(ctx, id)
		if err != nil {
			errs = append(errs, err)
			if isUnknown(err) && now.Sub(f.at) >= partsTimeout {
				delete(w.unrecorded, id) // it no longer exists in Nomad
			}
			continue
		}
		s, ok, done := f.sample(alloc, now)
		switch {
		case ok:
			samples, ids = append(samples, s), append(ids, id)
		case done:
			delete(w.unrecorded, id)
		}
	}
	if len(samples) == 0 {
		return errors.Join(errs...)
	}
	// A lookup that hung may have used up the deadline of ctx.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := add(ctx, o.consul, service, samples); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, id := range ids {
		delete(w.unrecorded, id)
	}
	return errors.Join(errs...)
}

// isUnknown reports whether Nomad does not know the allocation.
func isUnknown(err error) bool {
	var answer nomad.UnexpectedResponseError
	return errors.As(err, &answer) && answer.StatusCode() == http.StatusNotFound
}

// sample returns the start of a replica from its allocation, which is nil for a replica that Nomad
// does not run. ok reports whether s is valid. done is false while the driver may still report the
// parts of the start.
func (f newReplica) sample(alloc *nomad.Allocation, now time.Time) (s Sample, ok, done bool) {
	if alloc == nil {
		return s, false, true
	}
	for _, task := range alloc.TaskStates {
		if task.Restarts > 0 {
			return s, false, true // a restart in place: its start time is unknown
		}
		for _, e := range task.Events {
			if parts := learned.PartsIn(e.Details); parts != nil {
				s.Parts = parts
			}
		}
	}
	age := f.at.Sub(time.Unix(0, alloc.CreateTime))
	if age <= 0 || age >= learned.MaxStart {
		return s, false, true
	}
	s.At, s.Class, s.Seconds = f.at.UTC().Truncate(time.Second), f.class, age.Seconds()
	if s.Parts == nil && now.Sub(f.at) < partsTimeout {
		return s, false, false
	}
	return s, true, true
}

// nomadService matches the IDs of the services that Nomad registers in Consul.
var nomadService = regexp.MustCompile(`^_nomad-task-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-`)

// allocation returns the allocation of a replica, or nil if Nomad does not run it.
func (o *Observer) allocation(ctx context.Context, serviceID string) (*nomad.Allocation, error) {
	id := nomadService.FindStringSubmatch(serviceID)
	if id == nil {
		return nil, nil
	}
	alloc, _, err := o.nomad.Allocations().Info(id[1], (&nomad.QueryOptions{}).WithContext(ctx))
	return alloc, err
}
