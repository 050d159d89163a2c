package simulate

import "time"

// Observation is the input of a scaler.
type Observation struct {
	// Now is the time since the start of the trace.
	Now time.Duration
	// Demand is the mean number of queued and active requests in each past Step, oldest first, from
	// the start of the trace.
	Demand []float64
	// Active is the part of Demand that replicas worked on, by class and past Step.
	Active [][]float64
	// Level is the present number of queued and active requests.
	Level int
	// Ready and Desired are the replicas by class.
	Ready, Desired []int

	// The fields below are only meaningful for engines that batch.

	// Arrived is the tokens of the requests that arrived in each past Step, prompts and responses.
	// Met and Missed are the requests that ended within Config.Objective, and outside it.
	Arrived, Met, Missed []float64
	// Queued is the number of waiting requests, and QueuedTokens their tokens.
	Queued       int
	QueuedTokens float64
	// Engines is the state of each ready replica, for engines that batch.
	Engines []Engine
}

// Engine is the state of one replica that batches.
type Engine struct {
	// ID stays the same as long as the replica runs.
	ID, Class int
	// Cache is the part of the cache in use, 0 to 1. Waiting is the number of requests with unread
	// prompts.
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
		At: e.now, Demand: e.demand[len(e.demand)-1], Queued: e.queued,
		Desired: append([]int(nil), e.desired...), Ready: e.ready(),
	})
}

func (e *engine) observe() Observation {
	o := Observation{
		Now: e.now, Demand: e.demand, Active: e.served, Level: e.queued + e.active,
		Ready: e.ready(), Desired: append([]int(nil), e.desired...),
		Arrived: e.arrivedSeries, Met: e.metSeries, Missed: e.misses, Queued: e.queued,
		QueuedTokens: float64(e.queuedTokens),
	}
	for _, r := range e.replicas {
		if r.batch != nil && r.ready && !r.stopping {
			r.batch.advance(e.now)
			o.Engines = append(o.Engines, Engine{ID: r.id, Class: r.class, Cache: r.batch.use(),
				Waiting: len(r.batch.prefilling) + len(r.batch.waiting)})
		}
	}
	return o
}
