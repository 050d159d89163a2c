package simulate

import (
	"time"

	"aliquot/internal/scale"
)

// PolicyScaler is Aliquot's policy as the autoscaler runs it: every class is
// evaluated alone, with the count that is set and the demand of QueryWindow. Where
// the Classes have speeds, it is the load in slots of the fastest class.
type PolicyScaler struct {
	Policy  scale.Policy
	Classes []scale.Class
	// Min by class, the lower limit of each class's scaling block; nil for none.
	Min []int
	// QueryWindow is how much history a query returns.
	QueryWindow time.Duration
	Every       time.Duration
}

// Interval is Every.
func (s *PolicyScaler) Interval() time.Duration { return s.Every }

// Decide asks the policy for each class.
func (s *PolicyScaler) Decide(o Observation) []int {
	series := s.load(o)
	counts := append([]int(nil), o.Desired...)
	if len(series) == 0 {
		return counts
	}
	for c := range s.Classes {
		counts[c] = min(s.Policy.Decide(series, s.Classes, c, o.Desired[c]).Count, s.Classes[c].Max)
		if s.Min != nil {
			counts[c] = max(counts[c], s.Min[c])
		}
	}
	return counts
}

// load is what a query answers: with classes of one speed the demand itself.
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
