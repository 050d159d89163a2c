package strategy

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/coldstart"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// check is a policy's check with its parsed query.
type check struct {
	*sdk.ScalingPolicyCheck
	// query is nil if it belongs to another APM.
	query *query.Query
}

// fetch gathers the inputs of a decision except the count: it reads the settings and the series,
// and what was learned from Consul.
func (p *Plugin) fetch(c check, metrics sdk.TimestampedMetrics) (config scale.Config, e scale.Evaluation, err error) {
	if config, err = p.config(c); err != nil {
		return config, e, err
	}
	points := make([]scale.Point, len(metrics))
	for i, m := range metrics {
		points[i] = scale.Point{At: m.Timestamp, Value: m.Value}
	}
	if e.Series, err = scale.Series(points); err != nil {
		return config, e, err
	}
	last := points[len(points)-1].At
	speeds, err := p.measure(&config, c.query, last)
	if err != nil || config.Objective == nil {
		e.SpeedsFor = speeds
		return config, e, err
	}
	e.SpeedsFor = scale.Always
	err = p.promised(c, &config, &e, last)
	e.SpeedsFor = min(e.SpeedsFor, speeds)
	return config, e, err
}

// config reads the settings of a check. If they have no cold start, it uses the learned one.
func (p *Plugin) config(c check) (config scale.Config, err error) {
	learned := time.Duration(0)
	if c.Strategy.Config[query.ColdStart] == "" {
		if learned, err = p.coldStart(c.query); err != nil {
			return config, err
		}
	}
	config, short, err := query.Config(c.Strategy.Config, c.QueryWindow, learned)
	if err == nil && short != nil && p.short.Changed(c.Query, config.Policy.ColdStart) {
		p.log.Warn("the count cannot shrink", "query", c.Query, "coldstart", config.Policy.ColdStart.String(),
			"error", short)
	}
	return config, err
}

// measure sets the speeds of the classes to those in which the demand is counted, at the time of
// the last value. It returns how long they have been in force.
func (p *Plugin) measure(c *scale.Config, q *query.Query, at time.Time) (age time.Duration, err error) {
	if q == nil {
		// The demand of another APM's query is counted in the configured speeds.
		c.Classes = scale.WithSpeeds(c.Classes, nil)
		return scale.Always, nil
	}
	if learns, err := q.Unit(c.Classes, c.Objective != nil); !learns {
		return scale.Always, err
	}
	p.mu.Lock()
	speeds := p.speeds
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	doc, err := speeds.Read(ctx, q.Service)
	if err != nil {
		return 0, err
	}
	rates, age := doc.At(at)
	c.Classes = scale.WithSlots(scale.WithSpeeds(c.Classes, rates), doc.SlotsAt(at))
	return age, nil
}

// coldStart returns the learned cold start of the query's service. It returns 0 if there is none,
// or if the query does not belong to aliquot-apm. If Consul is away and has never answered,
// coldStart fails, because a guess could let a count shrink too soon.
func (p *Plugin) coldStart(q *query.Query) (time.Duration, error) {
	p.mu.Lock()
	client := p.consul
	p.mu.Unlock()
	if client == nil || q == nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	samples, err := coldstart.Read(ctx, client, q.Service)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		last, ok := p.learned[q.Service]
		if !ok {
			return 0,
				guard.Plain(fmt.Errorf("learned cold start of %q: %w; set coldstart in the policy to do without Consul",
					q.Service, err))
		}
		return last, nil
	}
	learned, _ := coldstart.P95(samples, time.Now())
	p.learned[q.Service] = learned
	return learned, nil
}
