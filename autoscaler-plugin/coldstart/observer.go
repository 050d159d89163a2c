package coldstart

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot/internal/gpu"
)

// Observer watches services while they are asked for and writes down how long
// each new replica took. It remembers which replicas it has seen; after a restart
// those that are healthy already are not counted, because nobody saw when they
// became so.
type Observer struct {
	consul *consul.Client
	nomad  *nomad.Client

	mu       sync.Mutex
	services map[string]*watch
}

type watch struct {
	busy bool
	next time.Time
	// seen is when replicas were last seen healthy, by service ID; nil before the
	// first look.
	seen map[string]time.Time
}

// NewObserver takes Nomad's address and token from the settings that the agent
// passes to every plugin.
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
	// longest is the longest start that is believed, and how long a replica that
	// is not healthy is remembered.
	longest = time.Hour
)

// Observe looks at a service's replicas, in the background and at most once per
// second. What goes wrong is logged: the policy then keeps the value it had.
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
				log.Error("recovered from a fault", "in", "cold start observer", "fault", fault)
			}
			o.mu.Lock()
			w.busy = false
			o.mu.Unlock()
		}()
		if err := o.look(service, w, now); err != nil {
			log.Debug("cold starts are not observed", "service", service, "error", err)
		}
	}()
}

// look runs alone for its watch.
func (o *Observer) look(service string, w *watch, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	entries, _, err := o.consul.Health().Service(service, "", true, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	first := w.seen == nil
	if first {
		w.seen = map[string]time.Time{}
	}
	var samples []Sample
	for _, e := range entries {
		_, known := w.seen[e.Service.ID]
		w.seen[e.Service.ID] = now
		if first || known {
			continue
		}
		created, err := o.created(ctx, e.Service.ID)
		if err != nil {
			return err
		}
		if age := now.Sub(created); age > 0 && age < longest {
			samples = append(samples, Sample{At: now.UTC().Truncate(time.Second), Class: e.Service.Meta[gpu.MetaClass], Seconds: age.Seconds()})
		}
	}
	maps.DeleteFunc(w.seen, func(_ string, last time.Time) bool { return now.Sub(last) > longest })
	if len(samples) == 0 {
		return nil
	}
	return add(ctx, o.consul, service, samples)
}

// nomadService is how Nomad names the services that it registers in Consul.
var nomadService = regexp.MustCompile(`^_nomad-task-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-`)

// created is when a replica was placed; the zero time for one that Nomad does not
// run, or that was restarted in place since.
func (o *Observer) created(ctx context.Context, serviceID string) (time.Time, error) {
	id := nomadService.FindStringSubmatch(serviceID)
	if id == nil {
		return time.Time{}, nil
	}
	alloc, _, err := o.nomad.Allocations().Info(id[1], (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return time.Time{}, err
	}
	for _, task := range alloc.TaskStates {
		if task.Restarts > 0 {
			return time.Time{}, nil
		}
	}
	return time.Unix(0, alloc.CreateTime), nil
}
