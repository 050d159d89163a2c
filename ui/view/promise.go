package view

import (
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// promise is the additional input of a policy with an objective. It is zero for other policies.
type promise struct {
	force objective.Force
	// arrivals has the requests that arrived and ended in each stored second, waits the waiting tokens.
	arrivals []objective.Second
	waits    []float64
	// answered is the first second for which arrivals is complete.
	answered int64
}

// promise brings the known curves into force. A replay of the same policies keeps its curves until
// they have moved, as the autoscaler does: otherwise each request would restart the replay of the
// hour. moved reports whether a policy got other curves.
func (r *Replay) promise(before []planned, same bool, now int64) (moved bool) {
	for i := range r.policies {
		p := &r.policies[i]
		if p.config.Objective == nil {
			continue
		}
		var old objective.Force
		if same {
			old = before[i].force
		}
		known := objective.Known{}
		if p.Curves != nil {
			known = *p.Curves
		}
		p.force = old.Next(&p.config, known, time.Unix(now, 0))
		p.arrivals, p.waits = make([]objective.Second, Depth), make([]float64, Depth)
		moved = moved || !p.force.Equal(old)
	}
	return moved
}

// take stores the requests that arrived and ended in a second, if the policy has an objective.
func (p *promise) take(at int, of *api.Point) {
	if p.arrivals == nil {
		return
	}
	p.waits[at] = of.QueuedTokens
	if t := of.Tokens; t != nil {
		p.arrivals[at] = objective.Second{Arrived: float64(t.Arrived), Met: float64(t.Met), Missed: float64(t.Missed)}
	}
}

// since returns when the curves came into force, nil if there are none.
func (p *promise) since() *time.Time {
	if !p.force.Measured() {
		return nil
	}
	t := p.force.Since()
	return &t
}

// seconds returns the number of seconds of demand for a decision. For a query for tokens, the
// strategy itself asks the gateways: for the newest second and the window before it.
func (p planned) seconds() int64 {
	window := int64(p.Window.Seconds())
	if p.Query.Metric == query.Tokens {
		window++
	}
	return window
}

// speedsFor returns how long the speeds in which demand is counted have been in force.
func (p planned) speedsFor() time.Duration {
	if p.Query.Metric != query.Load {
		return scale.Always
	}
	return p.SpeedsFor
}

// decide returns the strategy's decision for a second.
func (p planned) decide(second int64, current int, speedsFor time.Duration) (scale.Decision, error) {
	series, err := p.series(second)
	if err != nil {
		return scale.Decision{}, err
	}
	config, e := p.config, scale.Evaluation{Series: series, Current: current, SpeedsFor: speedsFor}
	if config.Objective != nil {
		if !p.force.Measured() {
			e.Unknown = p.CurvesProblem
		}
		config.Classes = p.force.Serving(config.Classes)
		e.Traffic = p.force.Traffic(p.traffic(second, len(series)), p.waits[second%Depth])
	}
	return config.Decide(e), nil
}

// traffic returns the requests that arrived and ended in each second up to end, for as many seconds
// as demand is known. In a gap it repeats the previous value, as the demand does.
func (p planned) traffic(end int64, known int) []objective.Second {
	var out []objective.Second
	for t := max(end-int64(p.Window.Seconds()), end-int64(known), p.answered); t <= end; t++ {
		_, stored := p.at(t)
		switch n := len(out); {
		case stored:
			out = append(out, p.arrivals[t%Depth])
		case n > 0:
			out = append(out, out[n-1])
		}
	}
	return out
}
