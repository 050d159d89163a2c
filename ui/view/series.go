package view

import (
	"maps"
	"slices"

	"aliquot.example/internal/api"
)

// Depth is how many seconds of a service are remembered, as many as gateways do.
const Depth = 3600

// Memory is what is remembered of a service, second by second. What was never told
// stays a gap.
type Memory struct {
	ring [Depth]sample
	// answered is the first second of which all gateways told what came and ended.
	answered int64
}

// sample is one second. point and replicas come from different sources; each is nil
// while its source has said nothing of the second.
type sample struct {
	second   int64
	point    *api.Point
	replicas map[string]Stand
	spreads  Spreads
}

// Stand is how many replicas of one class there are.
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
		return nil // older than what is kept
	}
	return s
}

// Fill takes in points of the gateways. What is known of a second stays: a gateway
// that was restarted knows less of the past than it told before.
func (m *Memory) Fill(points []api.Point) {
	for _, p := range points {
		if s := m.at(p.Time); s != nil && s.point == nil {
			s.point = &p
		}
	}
}

// Answered takes in from which second on all gateways told what came and ended, before the
// seconds of that answer: it counts where nobody told of it before.
func (m *Memory) Answered(first int64) {
	if first > m.Last()+1 {
		m.answered = first
	}
}

// Last is the newest second that the gateways told of, 0 for none.
func (m *Memory) Last() int64 {
	last := int64(0)
	for i := range m.ring {
		if s := &m.ring[i]; s.point != nil {
			last = max(last, s.second)
		}
	}
	return last
}

// stands is how many replicas there were in a second by class; nil where that is not known.
func (m *Memory) stands(second int64) map[string]Stand {
	if s := &m.ring[second%Depth]; s.second == second {
		return s.replicas
	}
	return nil
}

// Newest is the newest second that anything is known of, 0 for none.
func (m *Memory) Newest() int64 {
	newest := int64(0)
	for i := range m.ring {
		newest = max(newest, m.ring[i].second)
	}
	return newest
}

// Count takes in how many replicas there are in a second. Seconds that are alike share one map.
func (m *Memory) Count(second int64, by map[string]Stand) {
	if before := m.ring[(second+Depth-1)%Depth].replicas; maps.Equal(before, by) && before != nil {
		by = before
	}
	if s := m.at(second); s != nil {
		s.replicas = by
	}
}

// Series is seconds of a service as columns, for a chart. A value is nil in a gap.
type Series struct {
	Time     []int64               `json:"t"`
	Queued   []*float64            `json:"queued"`
	Active   map[string][]*float64 `json:"active"` // by class
	Ready    map[string][]*float64 `json:"ready"`
	Starting map[string][]*float64 `json:"starting"`
	// Output is tokens per second, of language models.
	Output []*float64 `json:"output,omitempty"`
	// Latency and TTFT are in seconds; TTFT has no columns where the service is no
	// language model.
	Latency Columns  `json:"latency"`
	TTFT    *Columns `json:"ttft,omitempty"`
}

// Since returns the whole seconds after one second, up to another.
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

// classes are those that something is known of in a span, and whether tokens are.
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

// AnsweredBy is the first second of which all gateways tell what came and ended in it: those
// that share their queues remember the demand of one that began later, and no more of it.
func AnsweredBy(answers []api.Concurrency) (first int64) {
	for _, a := range answers {
		if len(a.Series) > 0 {
			first = max(first, a.Series[0].Time)
		}
	}
	return first
}

// Together makes one series of what several gateways say of a service. Those that
// share their queues each tell the demand of all, so that the largest counts in each
// second; of others it is the sum. Tokens are those of each gateway's own requests. A
// gateway that has no second yet had no request in it: it was not there.
func Together(answers []api.Concurrency) []api.Point {
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
