package view

import (
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// promise is what a policy with an objective is decided with; the zero promise is of another.
type promise struct {
	force objective.Force
	// came is what came and ended in each second that is remembered, and waits the tokens
	// that waited in it.
	came  []objective.Second
	waits []float64
	// answered is the first second of which all of came is known.
	answered int64
}

// promise brings the curves that are known into force. A replay of the same policies keeps those
// that it had until they have moved, as the autoscaler does: else the hour would be decided again
// with each request. moved says that some policy has others than before.
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
		p.came, p.waits = make([]objective.Second, Depth), make([]float64, Depth)
		moved = moved || !p.force.Equal(old)
	}
	return moved
}

// take takes in what came and ended in a second, where an objective needs it.
func (p *promise) take(at int, of *api.Point) {
	if p.came == nil {
		return
	}
	p.waits[at] = of.QueuedTokens
	if t := of.Tokens; t != nil {
		p.came[at] = objective.Second{Arrived: float64(t.Arrived), Met: float64(t.Met), Missed: float64(t.Missed)}
	}
}

// since is when its curves came into force; nil where there are none.
func (p *promise) since() *time.Time {
	if !p.force.Measured() {
		return nil
	}
	t := p.force.Since()
	return &t
}

// seconds is how many of demand a decision follows from. The strategy asks gateways for the
// demand of a query for tokens itself, for the window before the newest second and that second.
func (p planned) seconds() int64 {
	window := int64(p.Window.Seconds())
	if p.Query.Metric == query.Tokens {
		window++
	}
	return window
}

// speedsFor is for how long the speeds that the demand is counted in have been in force.
func (p planned) speedsFor() time.Duration {
	if p.Query.Metric != query.Load {
		return scale.Always
	}
	return p.SpeedsFor
}

// decide decides as the strategy does, in a second.
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

// traffic is what came and ended up to a second, one value for each, for as long as so many
// seconds of demand are known. Over a gap that demand bridges it holds the earlier value too.
func (p planned) traffic(end int64, known int) []objective.Second {
	var out []objective.Second
	for t := max(end-int64(p.Window.Seconds()), end-int64(known), p.answered); t <= end; t++ {
		_, told := p.at(t)
		switch n := len(out); {
		case told:
			out = append(out, p.came[t%Depth])
		case n > 0:
			out = append(out, out[n-1])
		}
	}
	return out
}
