package scale

import (
	"errors"
	"math"
	"time"
)

// Point is one measured value of demand.
type Point struct {
	At    time.Time
	Value float64
}

// maxGap is the longest gap that the earlier value fills. Values before a longer gap do not belong
// to the same history.
const maxGap = 60 * time.Second

// Series resamples points, oldest first, to one value per Step, ending with the last point. Each
// value holds until the next point. History before a gap of more than a minute is dropped. Series
// fails without points and on values that are not valid as demand.
func Series(points []Point) ([]float64, error) {
	if len(points) == 0 {
		return nil, errors.New("the demand series is empty")
	}
	start := 0
	for i, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) || p.Value < 0 || p.Value > 1e9 {
			return nil, errors.New("the demand series has an invalid value: want 0 to 1e9")
		}
		if i > 0 && p.At.Sub(points[i-1].At) > maxGap {
			start = i
		}
	}
	points = points[start:]
	last := points[len(points)-1].At
	n := int(last.Sub(points[0].At)/Step) + 1
	if n < 1 || n > steps(7*24*time.Hour) {
		return nil, errors.New("the demand series is not in time order, or is longer than a week")
	}
	out := make([]float64, n)
	at := len(points) - 1
	for i := range out {
		t := last.Add(-time.Duration(i) * Step)
		for at > 0 && points[at].At.After(t) {
			at--
		}
		out[n-1-i] = points[at].Value
	}
	return out, nil
}
