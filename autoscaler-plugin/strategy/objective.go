package strategy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot/autoscaler-plugin/demand"
	"aliquot/autoscaler-plugin/guard"
	"aliquot/autoscaler-plugin/query"
	"aliquot/autoscaler-plugin/settings"
	"aliquot/internal/learned"
	"aliquot/internal/scale"
)

// enough requests of a class must have been measured for its curve to be believed.
const enough = 8

// promised asks the gateways what came and what was attained, and gives the classes what
// they serve within the objective. What cannot be known stays unknown: the count then
// follows demand, and its reason says so. It fails where the demand is not known either,
// because the query is for tokens, in which only an objective can be planned for.
func (p *Plugin) promised(c check, config *scale.Config, e *scale.Evaluation, to time.Time) error {
	if c.query == nil {
		return errors.New("an objective needs a query of aliquot-apm, which names the service")
	}
	p.mu.Lock()
	gateways := p.gateways
	p.mu.Unlock()
	if gateways == nil {
		return errors.New("the plugin is not configured yet")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	h, err := gateways.history(ctx, c.query.Service, to.Add(-c.QueryWindow), to)
	switch {
	case err != nil && c.query.Metric == query.Tokens:
		return guard.Plain(err)
	case err != nil:
		e.Unknown = "the gateways' traffic is not known: " + guard.Plain(err).Error()
		return nil
	}
	if c.query.Metric == query.Tokens {
		e.Series = requestsOf(h)
	}
	curves, err := p.curves(ctx, gateways, c.query.Service, to)
	if err != nil {
		e.Unknown = guard.Plain(err).Error()
		return nil
	}
	if tokens := serving(config, curves); tokens > 0 {
		e.Traffic = trafficOf(h, tokens)
	}
	return nil
}

// serving gives the classes what they serve within the objective, and returns the tokens of
// a mean request, 0 where no curve is known.
func serving(config *scale.Config, curves map[string]learned.Curve) (tokens float64) {
	o := learned.Objective{TTFT: config.Objective.TTFT.Seconds(), TPOT: config.Objective.TPOT.Seconds(), E2E: config.Objective.E2E.Seconds()}
	for i, class := range config.Classes {
		curve, known := curves[class.Name]
		if !known && len(config.Classes) == 1 {
			curve, known = best(curves) // a policy with slots does not name its class
		}
		if known {
			serving := scale.Serving(curve.Within(o, config.Objective.Quantile))
			config.Classes[i].Serving = &serving
			tokens = curve.Prompt + curve.Output
		}
	}
	return tokens
}

// best is the curve that most requests taught.
func best(curves map[string]learned.Curve) (of learned.Curve, known bool) {
	for _, class := range slices.Sorted(maps.Keys(curves)) {
		if curves[class].Samples > of.Samples {
			of = curves[class]
		}
	}
	return of, len(curves) > 0
}

// requestsOf is the demand of a history.
func requestsOf(h demand.History) []float64 {
	out := make([]float64, len(h.Seconds))
	for i, s := range h.Seconds {
		out[i] = s.Queued + s.Active
	}
	return out
}

// trafficOf counts a history in mean requests of so many tokens, as far as what came is
// known: the count does not shrink by less.
func trafficOf(h demand.History, tokens float64) *scale.Traffic {
	t := &scale.Traffic{}
	for _, s := range h.Answers().Seconds {
		t.Arrived = append(t.Arrived, s.Arrived/tokens)
		t.Met, t.Missed = append(t.Met, s.Met), append(t.Missed, s.Missed)
	}
	if n := len(h.Seconds); n > 0 {
		t.Waiting = h.Seconds[n-1].Tokens.Queued / tokens
	}
	return t
}

// curves are what is known of how long replicas take, by class: what the gateways have
// learned. Of a class with replicas of several sizes it is the curve that most requests
// taught.
func (p *Plugin) curves(ctx context.Context, g *gateways, service string, now time.Time) (map[string]learned.Curve, error) {
	client, err := g.kv()
	if err != nil {
		return nil, err
	}
	pairs, meta, err := client.KV().List(g.demand.Rates+"/"+service+"/", (&consul.QueryOptions{}).WithContext(ctx))
	if err := settings.Whole(meta, err); err != nil {
		return nil, fmt.Errorf("curves of %q: %w", service, err)
	}
	var known []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		known = append(known, doc)
	}
	curves := map[string]learned.Curve{}
	for class, merged := range learned.Merge(now, known...) {
		for _, curve := range merged.Tokens {
			if curve.Samples >= enough && curve.Prompt > 0 && curve.Samples > curves[class].Samples {
				curves[class] = curve
			}
		}
	}
	return curves, nil
}
