package scale

// sizing is how a capacity is found for an objective. Work is in what one replica of the
// best class serves in a second.
type sizing struct {
	// wait is how many seconds a request may wait for capacity.
	wait float64
	// late is the part of the requests that may wait longer, missed that which may miss the
	// objective.
	late, missed float64
	// memory is how many Steps of arrivals count.
	memory int
	// unit is one mean request, drain in how many seconds what waits now is to be served.
	unit, drain float64
}

// The figures were chosen by a search over the traces of bench/scale, for the least cost
// with 99% of the requests within the objective; see docs/scaling.md.
const (
	// slackPart is the part of an answer's slack that requests before it may take.
	slackPart = 0.25
	// lateParts is how many times as many requests may be late in the replayed queue as may
	// miss the objective: those that are late by little are served in time by what the
	// estimate of a replica leaves.
	lateParts = 4
	// memoryPart is the part of DownDelay whose arrivals count.
	memoryPart = 0.75
	// older is the part of the capacity for all arrivals that is kept.
	older = 0.7
	// margin is how many times the least capacity is ordered.
	margin = 1.1
	// hopeless is how many seconds requests may wait for capacity where every one of them
	// misses the objective: replicas for each burst would change nothing.
	hopeless = 10
	// drainWaits is in how many times wait that is served which waits now.
	drainWaits = 4
)

func (p Policy) sizing(o Objective, best *Serving) sizing {
	wait := o.TTFT.Seconds()
	if wait == 0 {
		wait = o.E2E.Seconds()
	}
	if slack := best.Slack * slackPart; slack > 0 && (wait == 0 || slack < wait) {
		wait = slack
	}
	if best.Most == 0 {
		wait = max(wait, best.First, hopeless)
	}
	missed := 1 - o.Quantile
	return sizing{
		wait: wait, late: lateParts * missed, missed: missed,
		memory: int(memoryPart * float64(steps(p.DownDelayOrDefault()))),
		unit:   1 / best.Rate, drain: max(1, drainWaits*wait),
	}
}

// capacity returns the least capacity that is enough for what came lately, and for a part of
// all that is known: bursts that are far apart come again.
func (z sizing) capacity(arrived []float64) float64 {
	return margin * max(z.least(arrived[max(0, len(arrived)-z.memory):]), older*z.least(arrived))
}

func (z sizing) least(arrived []float64) float64 {
	low, high := 0.0, 0.0
	for _, came := range arrived {
		high = max(high, came)
	}
	if high == 0 {
		return 0
	}
	for high-low > 0.01*high {
		if middle := (low + high) / 2; z.enough(arrived, middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return high
}

// enough says whether a capacity would have served the arrivals so that no more than the
// allowed part of them waited too long. It follows a queue through them (Lindley's
// recursion): what waits is what has waited and come, less what was served.
func (z sizing) enough(arrived []float64, capacity float64) bool {
	var waiting, late, all float64
	for _, came := range arrived {
		// What comes evenly within a Step is late as far as it is more than is served in
		// time, with half of the Step's own.
		room := max(0, capacity*(z.wait+Step.Seconds()/2)-waiting)
		late += max(0, came-room)
		all += came
		waiting = max(0, waiting+came-capacity*Step.Seconds())
	}
	return late <= z.late*all
}
