package strategy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/coldstart"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/query"
	"aliquot.example/internal/scale"
)

// check is what a policy asks for.
type check struct {
	*sdk.ScalingPolicyCheck
	// query is nil where it is another APM's.
	query *query.Query
}

// fetch gathers what a decision follows from, but for the count: it reads the settings
// and the series, and asks Consul for what was learned.
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

// config reads the settings of a check, with the cold start that was learned where none
// is among them.
func (p *Plugin) config(c check) (config scale.Config, err error) {
	set := maps.Clone(c.Strategy.Config)
	learned := time.Duration(0)
	if set[coldStart] == "" {
		if learned, err = p.coldStart(c.query); err != nil {
			return config, err
		}
		if learned > 0 {
			if set == nil {
				set = map[string]string{}
			}
			set[coldStart] = learned.String()
		}
	}
	if config, err = scale.ParseConfig(set); err != nil {
		return config, err
	}
	window := config.Policy.Window()
	if c.QueryWindow >= window {
		return config, nil
	}
	short := fmt.Errorf("query_window is %s: want at least %s, which is down_delay and stable_window; 15m lets peaks decay", c.QueryWindow, window)
	if learned == 0 {
		return config, short
	}
	// A cold start that turned out longer must not stop counts from growing.
	if p.short.Changed(c.Query, config.Policy.ColdStart) {
		p.log.Warn("the count cannot shrink", "query", c.Query, "coldstart", config.Policy.ColdStart.String(), "error", short)
	}
	return config, nil
}

// measure gives the classes the speeds that the query's demand is counted in, at
// the time of its last value, and says for how long they have been in force.
func (p *Plugin) measure(c *scale.Config, q *query.Query, at time.Time) (age time.Duration, err error) {
	if q == nil {
		// Another APM's query; its demand is in the unit of the speeds that are written.
		c.Classes = scale.WithSpeeds(c.Classes, nil)
		return scale.Always, nil
	}
	if learns, err := unit(c.Classes, q, c.Objective != nil); !learns {
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

// unit says whether a query's demand is counted by measured speeds, and fails where its
// unit is not that of the classes.
func unit(classes []scale.Class, q *query.Query, promised bool) (measured bool, err error) {
	switch {
	case q.Metric == query.Tokens && q.Class == "" && promised:
		return false, nil
	case q.Metric == query.Tokens:
		return false, fmt.Errorf("the query counts tokens but the strategy plans in requests: ask for %q with slots=measured in classes, or for tokens of all classes with an objective", "load service=… classes='…'")
	case q.Metric == query.Load && q.Class == "":
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Measured }):
		return false, fmt.Errorf("classes have slots=measured but the query is not for their load: ask for load, as in %q", "load service=… classes='…'")
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Speed != 1 }):
		return false, fmt.Errorf("classes have speeds but the query counts every slot the same: ask for load, as in %q, or leave speed out", "load service=… classes='…'")
	case q.Metric == query.Load && len(classes) > 1:
		return false, errors.New("the query is for one class's part of the load but the strategy has classes and splits by itself: leave class out of the query")
	default:
		return false, nil
	}
	if !slices.Equal(q.Classes, classes) {
		return false, errors.New("the query and the strategy have different classes: give both the same text, because the query counts in slots of the fastest class and the strategy plans in them")
	}
	return true, nil
}

// coldStart is the setting that, where given, stands instead of what is learned.
const coldStart = "coldstart"

// coldStart returns the learned cold start of the service in a query; 0 where
// nothing is known, or the query is not one of aliquot-apm's. When Consul is away
// and never answered it fails, because a guess could let a count shrink too soon.
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
			return 0, guard.Plain(fmt.Errorf("learned cold start of %q: %w; set coldstart in the policy to do without Consul", q.Service, err))
		}
		return last, nil
	}
	learned, _ := coldstart.P95(samples, time.Now())
	p.learned[q.Service] = learned
	return learned, nil
}
