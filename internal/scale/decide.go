package scale

import "fmt"

// Decision is the answer of one evaluation.
type Decision struct {
	// Count of replicas of the class that was asked for.
	Count int
	// Awake is how many of them are enough to stay awake; the others sleep.
	Awake int
	// Plan is the count of every class that serves the demand at the least cost.
	// Count differs from its own entry only where it is kept from shrinking.
	Plan []int
	Need Need
	// Reason is one sentence for operators.
	Reason string
}

// Decide returns how many replicas of classes[own] to set, given the series of
// demand of the whole service (see Need) and the number set now, running or not.
// Every class gets the same Plan from the same series. Where the classes have
// speeds, the series is one of Load.
func (p Policy) Decide(series []float64, classes []Class, own, current int) Decision {
	h := p.replay(series)
	need := p.need(h, series)
	plan := p.counts(h, classes)
	d := Decision{Count: plan[own], Plan: plan, Need: need}
	switch {
	case need.Idle:
		d.Plan, d.Count = make([]int, len(classes)), 0
		d.Reason = fmt.Sprintf("no request for %s", p.DownDelayOrDefault()+p.ZeroGrace)
	case d.Count > current && current > 0 && len(series) < steps(p.PanicWindow):
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %d s of demand are known, growing needs %s", current, len(series), p.PanicWindow)
	case d.Count > current && need.Held && len(classes) > 1:
		d.Reason = p.reason(need, classes, "changing to a cheaper mix for what is held")
	case d.Count > current:
		d.Reason = p.reason(need, classes, "growing")
	case d.Count == current:
		d.Reason = p.reason(need, classes, "steady")
	case !need.Complete:
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %d s of demand are known, shrinking needs %s", current, len(series), p.Window())
	case need.Panicking:
		// What the gateway started from zero may be of a class that is not in the plan,
		// and it is what serves first.
		d.Count = current
		d.Reason = p.reason(need, classes, fmt.Sprintf("holding %d", current))
	default:
		d.Count = p.shrink(d.Count, need, classes, own, current)
		d.Reason = p.reason(need, classes, "shrinking")
		if d.Count == current {
			d.Reason = p.reason(need, classes, fmt.Sprintf("holding, not yet %g%% lower", 100*p.Hysteresis))
		}
	}
	return p.keep(d, current)
}

// keep has replicas sleep that would be ended.
func (p Policy) keep(d Decision, current int) Decision {
	d.Awake = d.Count
	if kept := min(current, d.Count+p.Sleep); kept > d.Count {
		d.Count = kept
		d.Reason = fmt.Sprintf("%d awake and %d asleep, %s", d.Awake, kept-d.Awake, d.Reason)
	}
	return d
}

func (p Policy) reason(n Need, classes []Class, what string) string {
	name := "demand"
	if !equal(classes) {
		name = "load"
	}
	why := fmt.Sprintf("%s: %s %.1f (average %.1f, last %s %.1f", what, name, n.Demand, n.Stable, p.PanicWindow, n.Panic)
	if n.Forecast > 0 {
		why += fmt.Sprintf(", in %s %.1f", p.ColdStart, n.Forecast)
	}
	if n.Panicking {
		why += ", burst"
	}
	return why + ")" + words(classes)
}

// units of capacity wanted for a demand, with standby while there is any demand.
func (p Policy) units(demand float64, classes []Class) int {
	if demand <= 0 {
		return 0
	}
	g := grain(classes)
	return unitsFor(demand, p.Utilization, g) + p.Standby*classes[0].capacity(g)
}

// counts plans for the demand. With several classes it plans for every moment of
// the last cold start and takes the most of each class: where the cheapest mix
// changes from one class to another, the old replicas stay until the new ones serve.
func (p Policy) counts(h history, classes []Class) []int {
	demands := h.held[len(h.held)-1:]
	if len(classes) > 1 {
		demands = h.held[max(0, len(h.held)-1-steps(p.ColdStart)):]
	}
	most := 0
	for _, d := range demands {
		most = max(most, p.units(d, classes))
	}
	planner := newPlanner(most, classes)
	counts := make([]int, len(classes))
	planned := -1
	for _, d := range demands {
		units := p.units(d, classes)
		if units == planned {
			continue
		}
		planned = units
		for c, n := range planner.plan(units) {
			counts[c] = max(counts[c], n)
		}
	}
	return counts
}

// shrink lets a count fall to what is planned, or to the most that is needed at a
// demand close by, where that is more; and to none only when idle. A single class
// is kept for a rise by Hysteresis. In a mix more demand can need less of a class,
// so half of it lies on either side: a replica is kept while a demand close by
// would need it, and the mix is not changed back and forth. The averages show a rise
// late: what the newest seconds need without a request that waits is kept as well.
func (p Policy) shrink(planned int, need Need, classes []Class, own, current int) int {
	if need.Demand == 0 {
		return min(current, 1)
	}
	newest := unitsFor(need.Newest, 1, grain(classes))
	high := max(newest, p.units(need.Demand*(1+p.Hysteresis), classes))
	low := high
	if len(classes) > 1 {
		band := 1 + p.Hysteresis/2
		low, high = p.units(need.Demand/band, classes), max(newest, p.units(need.Demand*band, classes))
	}
	planner := newPlanner(high, classes)
	low, high = min(low, planner.limit), min(high, planner.limit) // beyond it the plan is all there is
	for units := low; units <= high; units++ {
		planned = max(planned, planner.plan(units)[own])
	}
	return min(current, planned)
}
