package strategy

import (
	"context"
	"fmt"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
)

// curves reads what the gateways have learned and the benchmark profiles.
func (g *gateways) curves(ctx context.Context, service string, now time.Time) (k objective.Known, err error) {
	client, err := g.kv()
	if err != nil {
		return k, err
	}
	options := (&consul.QueryOptions{}).WithContext(ctx)
	pairs, meta, err := client.KV().List(g.demand.Rates+"/"+service+"/", options)
	if err := settings.Whole(meta, err); err != nil {
		return k, fmt.Errorf("curves of %q: %w", service, err)
	}
	var rates []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		rates = append(rates, doc)
	}
	listed, err := profilekv.List(client, service, options)
	if err != nil {
		return k, fmt.Errorf("curves of %q: %w", service, err)
	}
	// Without replicas, the curve in force stays, or the curve with the most samples applies.
	entries, _, err := client.Health().Service(service, "", true, options)
	if err != nil {
		entries = nil
	}
	var replicas []map[string]string
	for _, e := range entries {
		replicas = append(replicas, e.Service.Meta)
	}
	return objective.KnownOf(now, rates, listed.Profiles[service], replicas), nil
}

// inForce brings new curves into force if they have moved, for the policies of all classes at once.
// After a restart of the plugin the first evaluation does so, so that nothing shrinks for one cold start.
func (p *Plugin) inForce(service string, c *scale.Config, k objective.Known, now time.Time) objective.Force {
	key := service + " " + c.Objective.String()
	for _, class := range c.Classes {
		key += " " + class.Name
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.force[key].Next(c, k, now)
	p.force[key] = f
	return f
}
