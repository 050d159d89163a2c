package profiler

import (
	"errors"
	"strings"

	"aliquot.example/internal/learned"
)

// Profile returns the report as a profile for a kind of replica. The objective of the benchmark
// comes first, then the others in the given order. It fails if the figures are too unreliable.
func (r *Report) Profile(of Replica, others []learned.Objective) (learned.Profile, error) {
	if err := r.Believed(); err != nil {
		return learned.Profile{}, err
	}
	p := learned.Profile{
		Measured: r.Measured, Model: r.About.Model, Image: of.Image, Driver: of.Driver,
		Engine: strings.TrimSpace(r.About.Engine.Kind + " " + r.About.Version),
		Class:  of.Class, Slices: of.Slices, Answers: float64(r.Answers),
	}
	own := learned.Objective{
		TTFT: r.Objective.TTFT.Seconds(), TPOT: r.Objective.TPOT.Seconds(), E2E: r.Objective.E2E.Seconds(),
	}
	if r.Curve == nil {
		if len(others) > 0 {
			return p, errors.New("other objectives follow from curves, which only a language model has")
		}
		p.Within = []learned.Within{{
			Objective: own, Concurrency: r.Best.Concurrency, Rate: r.Best.Rate, Tokens: r.Best.Tokens,
		}}
		return p, p.Check()
	}
	curve := *r.Curve
	for _, o := range append([]learned.Objective{own}, others...) {
		p.Within = append(p.Within, learned.WithinOf(curve, o))
	}
	curve.Rate = p.Within[0].Rate
	p.Curve = &curve
	return p, p.Check()
}
