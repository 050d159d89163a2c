package strategy

import (
	"context"
	"errors"
	"time"

	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

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
	learned, err := gateways.curves(ctx, c.query.Service, to)
	force := p.inForce(c.query.Service, config, learned, to)
	if err != nil && force.tokens == 0 { // else what was last learned is nearer to the truth than demand
		e.Unknown = guard.Plain(err).Error()
		return nil
	}
	e.SpeedsFor = force.age(to)
	for i, class := range config.Classes {
		if serving, known := force.serving[class.Name]; known {
			config.Classes[i].Serving, config.Classes[i].Assumed = &serving, force.assumed[class.Name]
		}
	}
	if force.tokens > 0 {
		e.Traffic = trafficOf(h, force.tokens)
	}
	return nil
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
