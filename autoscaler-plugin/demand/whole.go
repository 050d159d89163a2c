package demand

import (
	"aliquot.example/internal/api"
)

// mergeShared merges the answers of gateways that share their queues. Each of them knows the demand of
// all gateways for as long as it runs. A gateway that has just joined knows little of the past, and
// a gateway that is cut off knows little of the others, so mergeShared takes the largest value of each
// second. Other answers are returned unchanged.
func mergeShared(answers []answer) (out []answer, shared bool) {
	var all answer
	for _, a := range answers {
		if !a.whole {
			out = append(out, a)
			continue
		}
		shared = true
		if all.now.Before(a.now) {
			all.now = a.now
		}
		all.series = maxSeries(all.series, a.series)
	}
	if !shared {
		return out, false
	}
	setOutcomes(all.series, answers)
	all.known, all.whole = true, true
	all.add(answers)
	return append(out, all), true
}

// setOutcomes sets the arrivals and outcomes of each second to the sum over all gateways, because each
// gateway reports only its own.
func setOutcomes(series []api.Point, answers []answer) {
	sums := map[int64]*api.Tokens{}
	for _, a := range answers {
		for _, p := range a.series {
			if !a.whole || p.Tokens == nil {
				continue
			}
			if sums[p.Time] == nil {
				sums[p.Time] = &api.Tokens{}
			}
			sums[p.Time].Add(p.Tokens)
		}
	}
	for i := range series {
		series[i].Tokens = sums[series[i].Time]
	}
}

// firstKnown returns the first second for which all gateways report arrivals and outcomes. The series
// of a gateway begins when its process does, even if it restarted under the same name.
func firstKnown(answers []answer) (first int64) {
	for _, a := range answers {
		if len(a.series) > 0 {
			first = max(first, a.series[0].Time)
		}
	}
	return first
}

// maxSeries merges two series without gaps. Of each second it takes the point with more demand. Both
// series must end at about the same time.
func maxSeries(a, b []api.Point) []api.Point {
	if len(a) == 0 || len(b) > 0 && b[0].Time < a[0].Time {
		a, b = b, a
	}
	if len(b) == 0 || b[0].Time > a[len(a)-1].Time+1 {
		return a
	}
	out := append([]api.Point(nil), a...)
	for _, p := range b {
		at := p.Time - out[0].Time
		switch {
		case at == int64(len(out)):
			out = append(out, p)
		case p.Queued+p.Active > out[at].Queued+out[at].Active:
			out[at] = p
		}
	}
	return out
}

// add adds the current second to the series of a service that was idle. Each gateway reports only
// its own requests, so add sums them.
func (a *answer) add(of []answer) {
	sum := api.Point{Class: map[string]api.ClassPoint{}}
	for _, o := range of {
		if o.present == nil {
			continue
		}
		sum.Time = max(sum.Time, o.present.Time)
		sum.Queued += o.present.Queued
		sum.Active += o.present.Active
		sum.QueuedTokens += o.present.QueuedTokens
		sum.ActiveTokens += o.present.ActiveTokens
		for class, p := range o.present.Class {
			was := sum.Class[class]
			sum.Class[class] = api.ClassPoint{Active: was.Active + p.Active, Tokens: was.Tokens + p.Tokens}
		}
	}
	if n := len(a.series); sum.Time > 0 && (n == 0 || a.series[n-1].Time == sum.Time-1) {
		a.series = append(a.series, sum)
	}
}
