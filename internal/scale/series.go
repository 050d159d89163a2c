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

// maxGap is the longest distance of two points that is bridged with the earlier
// value; what lies before a longer one is not history of the same measurement.
const maxGap = 60 * time.Second

// Series puts points, oldest first, on a grid of one value per Step that ends
// with the last point. Between two points the earlier holds. History before a gap
// of more than a minute is dropped. It fails without points and on values that
// are no demand.
func Series(points []Point) ([]float64, error) {
	if len(points) == 0 {
		return nil, errors.New("the series of demand is empty")
	}
	start := 0
	for i, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) || p.Value < 0 || p.Value > 1e9 {
			return nil, errors.New("the series of demand holds a value that is no demand: want 0 to 1e9")
		}
		if i > 0 && p.At.Sub(points[i-1].At) > maxGap {
			start = i
		}
	}
	points = points[start:]
	last := points[len(points)-1].At
	n := int(last.Sub(points[0].At)/Step) + 1
	if n < 1 || n > steps(7*24*time.Hour) {
		return nil, errors.New("the series of demand is not in order or longer than a week")
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
