package view

import (
	"maps"
	"slices"

	"aliquot.example/internal/api"
)

// Depth is the number of stored seconds of a service, the same as in gateways.
const Depth = 3600

// Memory stores the last Depth seconds of a service. A second without data is a gap.
type Memory struct {
	ring [Depth]sample
	// answered is the first second for which all gateways reported arrived and ended requests.
	answered int64
}

// sample is one second. point and replicas have different sources; each is nil until its source has
// reported the second.
type sample struct {
	second   int64
	point    *api.Point
	replicas map[string]Stand
	spreads  Spreads
}

// Stand is the number of replicas of one class.
type Stand struct {
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
}

func (m *Memory) at(second int64) *sample {
	s := &m.ring[second%Depth]
	if s.second < second {
		*s = sample{second: second}
	}
	if s.second != second {
		return nil // too old
	}
	return s
}

// Fill stores points of the gateways. It does not overwrite a second: a gateway that was restarted
// knows less of the past than it reported before.
func (m *Memory) Fill(points []api.Point) {
	for _, p := range points {
		if s := m.at(p.Time); s != nil && s.point == nil {
			s.point = &p
		}
	}
}

// Answered sets the first second from which all gateways report arrived and ended requests. Call it
// before Fill with the same responses. It has no effect if the seconds before are known already.
func (m *Memory) Answered(first int64) {
	if first > m.Last()+1 {
		m.answered = first
	}
}

// Last returns the newest second reported by the gateways, 0 for none.
func (m *Memory) Last() int64 {
	last := int64(0)
	for i := range m.ring {
		if s := &m.ring[i]; s.point != nil {
			last = max(last, s.second)
		}
	}
	return last
}

// stands returns the number of replicas in a second by class, nil if unknown.
func (m *Memory) stands(second int64) map[string]Stand {
	if s := &m.ring[second%Depth]; s.second == second {
		return s.replicas
	}
	return nil
}

// Newest returns the newest second with any data, 0 for none.
func (m *Memory) Newest() int64 {
	newest := int64(0)
	for i := range m.ring {
		newest = max(newest, m.ring[i].second)
	}
	return newest
}

// Count stores the number of replicas in a second by class. Equal successive seconds share one map.
func (m *Memory) Count(second int64, by map[string]Stand) {
	if before := m.ring[(second+Depth-1)%Depth].replicas; maps.Equal(before, by) && before != nil {
		by = before
	}
	if s := m.at(second); s != nil {
		s.replicas = by
	}
}

// Series has the seconds of a service as columns for a chart. A value is nil in a gap.
type Series struct {
	Time     []int64               `json:"t"`
	Queued   []*float64            `json:"queued"`
	Active   map[string][]*float64 `json:"active"` // by class
	Ready    map[string][]*float64 `json:"ready"`
	Starting map[string][]*float64 `json:"starting"`
	// Output is the rate of generated tokens per second, only for language models.
	Output []*float64 `json:"output,omitempty"`
	// Latency and TTFT are in seconds. TTFT is nil unless the service is a language model.
	Latency Columns  `json:"latency"`
	TTFT    *Columns `json:"ttft,omitempty"`
}

// Since returns the seconds from after+1 to until.
func (m *Memory) Since(after, until int64) Series {
	after = max(after, until-Depth)
	out := Series{Time: []int64{}, Queued: []*float64{}, Active: map[string][]*float64{},
		Ready: map[string][]*float64{}, Starting: map[string][]*float64{}}
	active, replicas, tokens := m.classes(after, until)
	if tokens {
		out.TTFT = &Columns{}
	}
	for second := after + 1; second <= until; second++ {
		var s sample
		if kept := m.ring[second%Depth]; kept.second == second {
			s = kept
		}
		out.Time = append(out.Time, second)
		out.addPoint(s.point, active, tokens)
		out.Latency.add(s.spreads.Total)
		if out.TTFT != nil {
			out.TTFT.add(s.spreads.TTFT)
		}
		for _, class := range replicas {
			var ready, starting *float64
			if s.replicas != nil {
				ready, starting = number(s.replicas[class].Ready), number(s.replicas[class].Starting)
			}
			out.Ready[class] = append(out.Ready[class], ready)
			out.Starting[class] = append(out.Starting[class], starting)
		}
	}
	return out
}

func (s *Series) addPoint(p *api.Point, classes []string, tokens bool) {
	var queued, output *float64
	if p != nil {
		queued, output = &p.Queued, new(float64)
		if p.Tokens != nil {
			*output = float64(p.Tokens.Output)
		}
	}
	s.Queued = append(s.Queued, queued)
	if tokens {
		s.Output = append(s.Output, output)
	}
	for _, class := range classes {
		var active *float64
		if p != nil {
			v := p.Class[class].Active
			active = &v
		}
		s.Active[class] = append(s.Active[class], active)
	}
}

// classes returns the classes with data in a period, and reports whether it has tokens.
func (m *Memory) classes(after, until int64) (active, replicas []string, tokens bool) {
	points, counts := map[string]bool{}, map[string]bool{}
	for second := after + 1; second <= until; second++ {
		s := &m.ring[second%Depth]
		if s.second != second {
			continue
		}
		if s.point != nil {
			tokens = tokens || s.point.Tokens != nil
			for class := range s.point.Class {
				points[class] = true
			}
		}
		for class := range s.replicas {
			counts[class] = true
		}
	}
	return slices.Sorted(maps.Keys(points)), slices.Sorted(maps.Keys(counts)), tokens
}

func number(n int) *float64 {
	v := float64(n)
	return &v
}

// AnsweredBy returns the first second for which all gateways report arrived and ended requests.
// Gateways that share their queues know the demand of a gateway that started later, but not its
// requests before.
func AnsweredBy(answers []api.Concurrency) (first int64) {
	for _, a := range answers {
		if len(a.Series) > 0 {
			first = max(first, a.Series[0].Time)
		}
	}
	return first
}

// MergeSeries combines the series of several gateways for a service. Gateways that share their queues
// each report the demand of all, so the largest value counts in each second; otherwise values add
// up. Tokens always add up. A gateway without a second did not run yet.
func MergeSeries(answers []api.Concurrency) []api.Point {
	points := map[int64]*api.Point{}
	for _, a := range answers {
		for _, p := range a.Series {
			sum := points[p.Time]
			if sum == nil {
				sum = &api.Point{Time: p.Time, Class: map[string]api.ClassPoint{}}
				points[p.Time] = sum
			}
			if p.Tokens != nil {
				if sum.Tokens == nil {
					sum.Tokens = &api.Tokens{}
				}
				sum.Tokens.Add(p.Tokens)
			}
			switch {
			case !a.Whole:
				sum.Queued, sum.Active = sum.Queued+p.Queued, sum.Active+p.Active
				sum.QueuedTokens, sum.ActiveTokens = sum.QueuedTokens+p.QueuedTokens, sum.ActiveTokens+p.ActiveTokens
				for class, c := range p.Class {
					sum.Class[class] = api.ClassPoint{Active: sum.Class[class].Active + c.Active}
				}
			case p.Queued+p.Active >= sum.Queued+sum.Active:
				sum.Queued, sum.Active = p.Queued, p.Active
				sum.QueuedTokens, sum.ActiveTokens = p.QueuedTokens, p.ActiveTokens
				sum.Class = maps.Clone(p.Class)
			}
		}
	}
	out := make([]api.Point, 0, len(points))
	for _, second := range slices.Sorted(maps.Keys(points)) {
		out = append(out, *points[second])
	}
	return out
}
