package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/profilekv"
	"aliquot.example/ui/view"
)

// curves are the known performance curves of a service's replicas. problem is why they are unknown.
type curves struct {
	known   objective.Known
	problem string
}

// promises reports whether a policy has an objective.
func promises(p view.Policy) bool { return p.Settings["objective"] != "" }

// readCurves reads the curves of services with an objective whose policies a browser shows, and drops
// the rest. While Consul does not answer, it keeps the last ones.
func (w *Watch) readCurves(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	w.mu.Lock()
	var wanted []string
	for _, p := range w.policies {
		if promises(p) && w.judged[p.Service] > 0 && !slices.Contains(wanted, p.Service) {
			wanted = append(wanted, p.Service)
		}
	}
	maps.DeleteFunc(w.curves, func(name string, _ curves) bool { return !slices.Contains(wanted, name) })
	w.mu.Unlock()
	for _, service := range wanted {
		known, err := w.curvesOf(ctx, service)
		w.mu.Lock()
		if err == nil {
			w.curves[service] = curves{known: known}
		} else if old, ok := w.curves[service]; !ok || old.problem != "" {
			w.curves[service] = curves{problem: plain(err)}
		}
		w.mu.Unlock()
	}
}

// curvesOf reads the published rates of a service, its profiles and its replicas from Consul.
func (w *Watch) curvesOf(ctx context.Context, service string) (known objective.Known, err error) {
	if w.o.Consul == nil {
		return known, fmt.Errorf("curves of %q: they are in Consul, but this page runs without it (-no-consul)",
			service)
	}
	q := (&consul.QueryOptions{}).WithContext(ctx)
	pairs, meta, err := w.o.Consul.KV().List(learned.RatesPrefix+"/"+service+"/", q)
	if err == nil && meta.ResultsFilteredByACLs {
		err = errors.New("the page's token may not read all of aliquot/ in Consul's KV, see jobs/ui-consul-policy.hcl")
	}
	if err != nil {
		return known, fmt.Errorf("curves of %q: %w", service, err)
	}
	var rates []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		rates = append(rates, doc)
	}
	listed, err := profilekv.List(w.o.Consul, service, q)
	if err != nil {
		return known, fmt.Errorf("curves of %q: %w", service, err)
	}
	entries, _, err := w.o.Consul.Health().Service(service, "", true, q)
	if err != nil { // without replicas, the curve with the most samples counts
		entries = nil
	}
	var replicas []map[string]string
	for _, e := range entries {
		if e != nil && e.Service != nil {
			replicas = append(replicas, e.Service.Meta)
		}
	}
	return objective.KnownOf(time.Now(), rates, listed.Profiles[service], replicas), nil
}
