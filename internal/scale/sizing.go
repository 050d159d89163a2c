package scale

// sizing holds the parameters of the search for a capacity that meets an objective. One unit of
// work is what one replica of the best class serves in a second.
type sizing struct {
	// wait is how many seconds a request may wait for capacity.
	wait float64
	// late is the part of the requests that may wait longer, and missed the part that may miss the
	// objective.
	late, missed float64
	// memory is how many Steps of arrivals count.
	memory int
	// unit is the work of one mean request, and drain the seconds in which the present queue must
	// be served.
	unit, drain float64
}

// These values come from a search over the traces of bench/scale, for the least cost with 99% of
// the requests within the objective; see docs/scaling.md.
const (
	// slackPart is the part of a response's slack that requests before it may use.
	slackPart = 0.25
	// lateParts is the ratio of requests that may be late in the replayed queue to those that may
	// miss the objective. A request that is only a little late is still in time, because the
	// estimate of a replica has a reserve.
	lateParts = 4
	// memoryPart is the part of DownDelay whose arrivals count.
	memoryPart = 0.75
	// keepRatio is the part to keep of the capacity for all known arrivals.
	keepRatio = 0.7
	// margin multiplies the least capacity.
	margin = 1.1
	// maxLateWait is how many seconds requests may wait for capacity if every one of them misses the
	// objective anyway: replicas for each burst would change nothing.
	maxLateWait = 10
	// drainWaits is the multiple of wait in which the present queue must be served.
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
	if best.Concurrency == 0 {
		wait = max(wait, best.First, maxLateWait)
	}
	missed := 1 - o.Quantile
	return sizing{
		wait: wait, late: lateParts * missed, missed: missed,
		memory: int(memoryPart * float64(steps(p.DownDelayOrDefault()))),
		unit:   1 / best.Rate, drain: max(1, drainWaits*wait),
	}
}

// capacity returns the least capacity that is enough for the recent arrivals, and for a part of all
// known arrivals, because rare bursts recur.
func (z sizing) capacity(arrived []float64) float64 {
	return margin * max(z.least(arrived[max(0, len(arrived)-z.memory):]), keepRatio*z.least(arrived))
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

// enough reports whether a capacity would have served the arrivals with no more than the allowed
// part of them waiting too long. It replays the queue with Lindley's recursion: the queue is the
// previous queue plus arrivals less what was served.
func (z sizing) enough(arrived []float64, capacity float64) bool {
	var waiting, late, all float64
	for _, came := range arrived {
		// Arrivals are spread evenly over a Step. What exceeds the capacity of wait plus half a
		// Step is late.
		room := max(0, capacity*(z.wait+Step.Seconds()/2)-waiting)
		late += max(0, came-room)
		all += came
		waiting = max(0, waiting+came-capacity*Step.Seconds())
	}
	return late <= z.late*all
}
