package profile

import (
	"encoding/json"
	"math"
	"slices"
)

// Mean is a mean and the half width of its 95% confidence interval by Student's t. Half is infinite
// for a single value.
type Mean struct {
	Value, Half float64
	N           int
}

// MarshalJSON omits an unknown interval.
func (m Mean) MarshalJSON() ([]byte, error) {
	out := map[string]any{"mean": m.Value, "n": m.N}
	if !math.IsInf(m.Half, 0) {
		out["ci95"] = m.Half
	}
	return json.Marshal(out)
}

// studentT holds the 0.975 quantiles of Student's t by degrees of freedom, starting at 1.
var studentT = [...]float64{
	12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
	2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
}

// MeanOf returns the mean of values, or the zero Mean without values.
func MeanOf(values []float64) Mean {
	n := len(values)
	if n == 0 {
		return Mean{}
	}
	m := Mean{N: n, Half: math.Inf(1)}
	for _, v := range values {
		m.Value += v / float64(n)
	}
	if n == 1 {
		return m
	}
	var squares float64
	for _, v := range values {
		squares += (v - m.Value) * (v - m.Value)
	}
	t := 1.96
	if n-2 < len(studentT) {
		t = studentT[n-2]
	}
	m.Half = t * math.Sqrt(squares/float64(n-1)/float64(n))
	return m
}

// Quantile returns the smallest value that at least a part q of the values does not exceed, or 0
// without values.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Clone(values)
	slices.Sort(s)
	return s[min(len(s)-1, max(0, int(math.Ceil(q*float64(len(s))))-1))]
}
