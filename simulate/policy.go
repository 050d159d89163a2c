package simulate

import (
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

// PolicyScaler runs Aliquot's policy like the autoscaler: it evaluates every class separately, with
// the count that is set and the demand of QueryWindow. If the Classes have speeds, the demand is
// the load in slots of the fastest class.
type PolicyScaler struct {
	Policy  scale.Policy
	Classes []scale.Class
	// Min is the lower limit of each class's scaling block, nil for none.
	Min []int
	// QueryWindow is how much history a query returns.
	QueryWindow time.Duration
	Every       time.Duration
	// Objective is what the counts follow if engines batch, nil to follow demand. Curves are the
	// timings of the engines by class, as the gateways learned them.
	Objective *scale.Objective
	Curves    []learned.Curve
}

// Interval returns Every.
func (s *PolicyScaler) Interval() time.Duration { return s.Every }

// Decide evaluates the policy for each class.
func (s *PolicyScaler) Decide(o Observation) []int {
	e := scale.Evaluation{Series: s.load(o), SpeedsFor: scale.Always}
	counts := append([]int(nil), o.Desired...)
	if len(e.Series) == 0 {
		return counts
	}
	config := scale.Config{Policy: s.Policy, Classes: s.Classes, Objective: s.Objective}
	if s.Objective != nil {
		config.Classes, e.Traffic = s.serving(), s.traffic(o)
	}
	for c := range s.Classes {
		config.Own, e.Current = c, o.Desired[c]
		counts[c] = min(config.Decide(e).Count, s.Classes[c].Max)
		if s.Min != nil {
			counts[c] = max(counts[c], s.Min[c])
		}
	}
	return counts
}

// load returns the result of a query. If all classes have the same speed, it is the demand.
func (s *PolicyScaler) load(o Observation) []float64 {
	from := max(0, len(o.Demand)-int(s.QueryWindow/Step))
	out := make([]float64, len(o.Demand)-from)
	byClass := map[string]float64{}
	for i := range out {
		for c, class := range s.Classes {
			byClass[class.Name] = o.Active[c][from+i]
		}
		out[i] = scale.Load(o.Demand[from+i], 0, byClass, s.Classes)
	}
	return out
}

// serving returns the classes with what they serve within the objective.
func (s *PolicyScaler) serving() []scale.Class {
	out := append([]scale.Class(nil), s.Classes...)
	o := learned.Objective{TTFT: s.Objective.TTFT.Seconds(), TPOT: s.Objective.TPOT.Seconds(),
		E2E: s.Objective.E2E.Seconds()}
	for i, curve := range s.Curves {
		serving := scale.Serving(curve.Within(o, s.Objective.Quantile))
		out[i].Serving = &serving
	}
	return out
}

// traffic returns what the gateways observed, in mean requests.
func (s *PolicyScaler) traffic(o Observation) *scale.Traffic {
	from := max(0, len(o.Demand)-int(s.QueryWindow/Step))
	tokens := s.Curves[0].Prompt + s.Curves[0].Output
	t := &scale.Traffic{Waiting: o.QueuedTokens / tokens, Met: o.Met[from:], Missed: o.Missed[from:]}
	for _, arrived := range o.Arrived[from:] {
		t.Arrived = append(t.Arrived, arrived/tokens)
	}
	return t
}
