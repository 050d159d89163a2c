package scale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Decision is the result of one evaluation.
type Decision struct {
	// Count is the number of replicas to set for the own class.
	Count int
	// Awake is how many of these replicas must stay awake. The others can sleep.
	Awake int
	// Plan is the cheapest count of each class that serves the demand. Count differs from the own
	// class's entry if a rule holds the count (history too short, hysteresis, a burst, an overlap)
	// or if replicas sleep.
	Plan []int
	Need Need
	// Reason explains the count to operators in one sentence.
	Reason string
	// Note explains why an objective is not in use or cannot be met. Its text stays the same as
	// long as the cause does. It is "" if the objective is met, or if there is none.
	Note string
}

// Evaluation is the input of one decision, in addition to a Config.
type Evaluation struct {
	// Series is the demand of the whole service (see Series), or its Load if the classes have
	// speeds.
	Series []float64
	// Current is the count that is set for the own class, whether its replicas run or not.
	Current int
	// Traffic is the traffic of a service whose Config has an Objective, nil if it is unknown.
	Traffic *Traffic
	// Unknown explains why Traffic is nil.
	Unknown string
	// SpeedsFor is the time since the speeds of the classes last changed. It is Always if they do
	// not change.
	SpeedsFor time.Duration
}

// Always is longer than any duration in practice.
const Always = time.Duration(math.MaxInt64)

// Decide returns how many replicas of the own class to set. Every class computes the same Plan from
// the same series. The strategy and the simulation call nothing else.
func (c Config) Decide(e Evaluation) Decision {
	d := c.judge(e)
	return c.overlap(d, e.Current, e.SpeedsFor)
}

// decide decides from demand and capacity, without an objective.
func (p Policy) decide(series []float64, classes []Class, own, current int) Decision {
	h := p.replay(series)
	return p.choose(h.held, p.need(h, series), len(series), classes, own, current)
}

// choose turns a need into a count. held is the demand of the last seconds, ending with the
// present. known is the length of the history in seconds.
func (p Policy) choose(held []float64, need Need, known int, classes []Class, own, current int) Decision {
	plan := p.counts(held, classes)
	d := Decision{Count: plan[own], Plan: plan, Need: need}
	switch {
	case need.Idle:
		d.Plan, d.Count = make([]int, len(classes)), 0
		d.Reason = fmt.Sprintf("no request for %s", p.DownDelayOrDefault()+p.ZeroGrace)
	case d.Count > current && current > 0 && known < steps(p.PanicWindow):
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %s of demand is known, and growing needs %s", current,
			time.Duration(known)*Step, p.PanicWindow)
	case d.Count > current && need.Held && len(classes) > 1:
		d.Reason = p.reason(need, classes, "changing to a cheaper mix for what is held")
	case d.Count > current:
		d.Reason = p.reason(need, classes, "growing")
	case d.Count == current:
		d.Reason = p.reason(need, classes, "steady")
	case !need.Complete:
		d.Count = current
		d.Reason = fmt.Sprintf("holding %d: only %s of demand is known, and shrinking needs %s", current,
			time.Duration(known)*Step, p.Window())
	case need.Panicking:
		// The replica that the gateway started from zero serves first, and its class may not be in
		// the plan.
		d.Count = current
		d.Reason = p.reason(need, classes, fmt.Sprintf("holding %d", current))
	default:
		d.Count = p.shrink(d.Count, need, classes, own, current)
		d.Reason = p.reason(need, classes, "shrinking")
		if d.Count == current {
			d.Reason = p.reason(need, classes, fmt.Sprintf("holding, not yet %g%% lower", 100*p.Hysteresis))
		}
	}
	return p.keepAsleep(d, current)
}

// keepAsleep lets up to Sleep surplus replicas sleep instead of ending them.
func (p Policy) keepAsleep(d Decision, current int) Decision {
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

// units returns the capacity to plan for a demand, in units of grain. It includes standby replicas
// if the demand is above 0.
func (p Policy) units(demand float64, classes []Class) int {
	if demand <= 0 {
		return 0
	}
	g := grain(classes)
	units, multiple := unitsFor(demand, p.Utilization, g), max(1, p.multiple)
	return (units+multiple-1)/multiple*multiple + p.Standby*classes[0].capacity(g)
}

// counts plans replicas for the demand. With several classes it plans for every moment of the last
// cold start and keeps the maximum of each class, so that the replicas of an old mix stay until
// those of the new mix serve. There is one exception: if the replicas that were in every one of
// these plans serve nearly all of the present demand, it returns the plan for the present demand
// alone.
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
	if !equal(classes) && float64(serves) >= minServed*float64(planned) {
		return now
	}
	return counts
}

// minServed is the part of the present demand that replicas planned throughout the last cold start
// must serve before counts drops the others. It is not used if all slots have the same speed: 1 may
// then be a default, and the real speeds may differ.
const minServed = 0.85

// shrink lowers a count to the plan, or to the largest count that a nearby demand needs if that is
// more. It reaches 0 only if the service is idle. For a single class, Hysteresis keeps replicas for
// a rise. In a mix, more demand can need fewer replicas of a class, so half of Hysteresis lies on
// each side: a replica stays while any nearby demand needs it, and the mix does not oscillate.
// Averages show a rise late, so shrink also keeps what the newest seconds need to serve without a
// queue.
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
	low, high = min(low, planner.limit), min(high, planner.limit) // above the limit the plan is all devices
	for units := low; units <= high; units += max(1, p.multiple) {
		planned = max(planned, planner.plan(units)[own])
	}
	return min(current, planned)
}
