package simulate

import "time"

// Observation is what a scaler is shown.
type Observation struct {
	// Now counts from the start of the trace.
	Now time.Duration
	// Demand is the mean number of requests queued and active in each past Step,
	// oldest first, from the start of the trace.
	Demand []float64
	// Active is the part of Demand that replicas worked on, by class and past Step.
	Active [][]float64
	// Level is the number queued and active at this moment.
	Level int
	// Ready and Desired replicas by class.
	Ready, Desired []int

	// What follows is known of engines that batch.

	// Arrived is the tokens of the requests that arrived in each past Step, of prompt and
	// answer, Met and Missed how many that ended were within Config.Objective and not.
	Arrived, Met, Missed []float64
	// Queued is the requests that wait, QueuedTokens their tokens.
	Queued       int
	QueuedTokens float64
	// Engines is the state of each ready replica.
	Engines []Engine
}

// Engine is the state of one replica that batches.
type Engine struct {
	// ID stays the same for as long as the replica runs.
	ID, Class int
	// Cache is the part of its cache in use, 0 to 1, and Waiting the requests whose
	// prompts wait to be read.
	Cache   float64
	Waiting int
}

func (e *engine) sample() {
	e.demand = append(e.demand, e.area/Step.Seconds())
	e.arrivedSeries = append(e.arrivedSeries, e.arrived)
	e.metSeries, e.misses = append(e.metSeries, e.met), append(e.misses, e.missed)
	e.area, e.arrived, e.met, e.missed = 0, 0, 0, 0
	for c, area := range e.areas {
		e.served[c] = append(e.served[c], area/Step.Seconds())
		e.areas[c] = 0
	}
	e.result.Timeline = append(e.result.Timeline, Sample{
		At: e.now, Demand: e.demand[len(e.demand)-1], Queued: len(e.queue),
		Desired: append([]int(nil), e.desired...), Ready: e.ready(),
	})
}

func (e *engine) observe() Observation {
	o := Observation{
		Now: e.now, Demand: e.demand, Active: e.served, Level: len(e.queue) + e.active,
		Ready: e.ready(), Desired: append([]int(nil), e.desired...),
		Arrived: e.arrivedSeries, Met: e.metSeries, Missed: e.misses, Queued: len(e.queue),
	}
	if e.cfg.Classes[0].Curve == nil {
		return o
	}
	for _, i := range e.queue {
		o.QueuedTokens += float64(e.trace[i].InputTokens + e.trace[i].OutputTokens)
	}
	for _, r := range e.replicas {
		if r.ready && !r.stopping {
			r.batch.advance(e.now)
			o.Engines = append(o.Engines, Engine{ID: r.id, Class: r.class, Cache: r.batch.use(),
				Waiting: len(r.batch.reading)})
		}
	}
	return o
}
