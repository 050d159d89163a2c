package strategy

import (
	"context"
	"errors"
	"time"

	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// promised reads arrivals and outcomes from the gateways, and sets what the classes serve within
// the objective. What it cannot read stays unknown: the count then follows demand, and its reason
// says so. It fails if the query is for tokens and the gateways do not answer, because there is
// then no demand to fall back on.
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
	if err != nil && !force.Measured() { // otherwise the last curves are better than demand
		e.Unknown = guard.Plain(err).Error()
		return nil
	}
	e.SpeedsFor = force.Age(to)
	config.Classes = force.Serving(config.Classes)
	e.Traffic = trafficOf(h, force)
	return nil
}

// requestsOf returns the demand of a history in requests.
func requestsOf(h demand.History) []float64 {
	out := make([]float64, len(h.Seconds))
	for i, s := range h.Seconds {
		out[i] = s.Queued + s.Active
	}
	return out
}

// trafficOf converts a history to mean requests. It uses only the seconds with known arrivals; with
// too few of them the count does not shrink.
func trafficOf(h demand.History, force objective.Force) *scale.Traffic {
	var seconds []objective.Second
	for _, s := range h.Answers().Seconds {
		seconds = append(seconds, objective.Second{Arrived: s.Arrived, Met: s.Met, Missed: s.Missed})
	}
	waiting := 0.0
	if n := len(h.Seconds); n > 0 {
		waiting = h.Seconds[n-1].Tokens.Queued
	}
	return force.Traffic(seconds, waiting)
}
