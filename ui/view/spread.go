package view

import (
	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// Spread has quantiles of the duration of the requests that ended in the last Over seconds, in
// seconds.
type Spread struct{ P50, P90, P99 float64 }

// Over is the window of a Spread in seconds. In a shorter one, each request would make it jump.
const Over = 15

// Spreads are the spreads of one second: of the whole duration, and of the time to the first token
// of a language model. Each is nil if no request ended in its window.
type Spreads struct{ Total, TTFT *Spread }

// SpreadsOf returns the spreads of the seconds from after+1 to until, from the latencies of several
// gateways. These must begin at least Over seconds earlier.
func SpreadsOf(answers []api.Latencies, after, until int64) (map[int64]Spreads, error) {
	type second struct{ total, ttft quantile.Sketch }
	seconds := map[int64]*second{}
	for _, a := range answers {
		for _, p := range a.Series {
			s := seconds[p.Time]
			if s == nil {
				s = &second{}
				seconds[p.Time] = s
			}
			for into, bytes := range map[*quantile.Sketch][]byte{&s.total: p.Total, &s.ttft: p.TTFT} {
				one, err := quantile.Decode(bytes)
				if err != nil {
					return nil, err
				}
				into.Merge(one)
			}
		}
	}
	out := map[int64]Spreads{}
	for t := after + 1; t <= until; t++ {
		var total, ttft quantile.Sketch
		for before := t - Over + 1; before <= t; before++ {
			if s := seconds[before]; s != nil {
				total.Merge(&s.total)
				ttft.Merge(&s.ttft)
			}
		}
		out[t] = Spreads{spreadOf(&total), spreadOf(&ttft)}
	}
	return out, nil
}

// Lookback is the number of additional seconds of latencies to request before the first one shown:
// ServedOf counts over a minute.
const Lookback = 60

// ServedOf returns the number of requests that all gateways served in the last minute, by class.
func ServedOf(answers []api.Latencies, now int64) map[string]int {
	out := map[string]int{}
	for _, a := range answers {
		for _, p := range a.Series {
			if p.Time >= now-Lookback {
				for class, n := range p.Served {
					out[class] += n
				}
			}
		}
	}
	return out
}

func spreadOf(s *quantile.Sketch) *Spread {
	if s.Count() == 0 {
		return nil
	}
	return &Spread{s.At(0.5), s.At(0.9), s.At(0.99)}
}

// FillSpreads stores the spreads of seconds.
func (m *Memory) FillSpreads(by map[int64]Spreads) {
	for second, s := range by {
		if at := m.at(second); at != nil {
			at.spreads = s
		}
	}
}

// Columns are the quantiles of a duration, second by second, for a chart.
type Columns struct {
	P50 []*float64 `json:"p50"`
	P90 []*float64 `json:"p90"`
	P99 []*float64 `json:"p99"`
}

func (c *Columns) add(s *Spread) {
	var a, b, d *float64
	if s != nil {
		a, b, d = &s.P50, &s.P90, &s.P99
	}
	c.P50, c.P90, c.P99 = append(c.P50, a), append(c.P90, b), append(c.P99, d)
}
