package scale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

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
	// Note is why an objective is not used or cannot be kept, in words that stay while
	// that does; "" where it is kept, or where there is none.
	Note string
}

// Evaluation is what one decision follows from, beside a Config.
type Evaluation struct {
	// Series is the demand of the whole service, see Series; where the classes have
	// speeds, its Load.
	Series []float64
	// Current is the number of replicas of the own class that is set, running or not.
	Current int
	// Traffic is what is known of a service whose Config has an Objective; nil where
	// nothing is.
	Traffic *Traffic
	// Unknown is why Traffic is nil.
	Unknown string
	// SpeedsFor is for how long the speeds of the classes have been in force, Always
	// where they do not change.
	SpeedsFor time.Duration
}

// Always is longer than any time.
const Always = time.Duration(math.MaxInt64)

// Decide returns how many replicas of the own class to set. Every class gets the same
// Plan from the same series. It is the whole of a decision: the strategy and the
// simulation ask nothing else.
func (c Config) Decide(e Evaluation) Decision {
	d := c.judge(e)
	return c.overlap(d, e.Current, e.SpeedsFor)
}

// decide returns a decision by demand and capacity.
func (p Policy) decide(series []float64, classes []Class, own, current int) Decision {
	h := p.replay(series)
	return p.choose(h.held, p.need(h, series), len(series), classes, own, current)
}

// choose turns what is needed into a count. held is the demand of the last seconds and of
// the present one, known is how many seconds of history there are.
func (p Policy) choose(held []float64, need Need, known int, classes []Class, own, current int) Decision {
	plan := p.counts(held, classes)
	d := Decision{Count: plan[own], Plan: plan, Need: need}
	switch {
	case need.Idle:
		d.Plan, d.Count = make([]int, len(classes)), 0
		d.Reason = fmt.Sprintf("no request for %s", p.DownDelayOrDefault()+p.ZeroGrace)
	case d.Count > current && current > 0 && known < steps(p.PanicWindow):
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %d s of demand are known, growing needs %s", current, known,
			p.PanicWindow)
	case d.Count > current && need.Held && len(classes) > 1:
		d.Reason = p.reason(need, classes, "changing to a cheaper mix for what is held")
	case d.Count > current:
		d.Reason = p.reason(need, classes, "growing")
	case d.Count == current:
		d.Reason = p.reason(need, classes, "steady")
	case !need.Complete:
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %d s of demand are known, shrinking needs %s", current, known,
			p.Window())
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
	switch {
	case n.Unit != "":
		name = "replicas of " + n.Unit
	case !equal(classes):
		name = "load"
	}
	why := fmt.Sprintf("%s: %s %.1f (average %.1f, last %s %.1f", what, name, n.Demand, n.Stable,
		p.PanicWindow, n.Panic)
	if n.Forecast > 0 {
		why += fmt.Sprintf(", in %s %.1f", p.ColdStart, n.Forecast)
	}
	if n.Panicking {
		why += ", burst"
	}
	if n.Unit != "" {
		return why + ")"
	}
	return why + ")" + words(classes)
}

// units of capacity wanted for a demand, with standby while there is any demand.
func (p Policy) units(demand float64, classes []Class) int {
	if demand <= 0 {
		return 0
	}
	g := grain(classes)
	units, multiple := unitsFor(demand, p.Utilization, g), max(1, p.multiple)
	return (units+multiple-1)/multiple*multiple + p.Standby*classes[0].capacity(g)
}

// counts plans for the demand. With several classes it plans for every moment of
// the last cold start. Where the cheapest mix has changed from one class to another, so that
// what was planned all the time does not nearly serve the present demand, it takes the most
// of each class: the old replicas stay until the new ones serve.
func (p Policy) counts(held []float64, classes []Class) []int {
	demands := held[len(held)-1:]
	if len(classes) > 1 {
		demands = held[max(0, len(held)-1-steps(p.ColdStart)):]
	}
	most := 0
	for _, d := range demands {
		most = max(most, p.units(d, classes))
	}
	planner := newPlanner(most, classes)
	counts := make([]int, len(classes))
	planned, g := -1, grain(classes)
	var now, throughout []int
	for _, d := range demands {
		units := p.units(d, classes)
		if units == planned {
			continue
		}
		planned, now = units, planner.plan(units)
		if throughout == nil {
			throughout = slices.Clone(now)
		}
		for c, n := range now {
			counts[c], throughout[c] = max(counts[c], n), min(throughout[c], n)
		}
	}
	serves := 0
	for c, n := range throughout {
		serves += n * classes[c].capacity(g)
	}
	if !equal(classes) && float64(serves) >= nearly*float64(planned) {
		return now
	}
	return counts
}

// nearly is the part of the present demand that replicas must serve which have been planned
// for a cold start, so that no others are kept beside them. Where every slot counts the same
// that cannot be known: classes may differ all the same.
const nearly = 0.85

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
	for units := low; units <= high; units += max(1, p.multiple) {
		planned = max(planned, planner.plan(units)[own])
	}
	return min(current, planned)
}
