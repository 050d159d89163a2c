package scale

// sizing holds the parameters of the search for a capacity that meets an objective. One unit of
// work is what one replica of the best class serves in a second.
type sizing struct {
	// wait is how many seconds a request may wait for capacity.
	wait float64
	// late is the part of the requests that may wait longer, and missed the part that may miss the
	// objective.
	late, missed float64
	// memory is how many Steps of arrivals count, and stable those of a mean rate.
	memory, stable int
	// unit is the work of one mean request, and drain the seconds in which the present queue must
	// be served.
	unit, drain float64
	// margin multiplies the least capacity.
	margin float64
}

// These values come from a search over the traces of bench/scale, for the least cost with 99% of
// the requests within the objective; see docs/scaling.md.
const (
	// slackPart is the part of a response's slack that requests before it may use.
	slackPart = 0.25
	// lateParts is the ratio of requests that may be late in the replayed queue to those that may
	// miss the objective. A request that is only a little late is still in time, because the
	// estimate of a replica has a reserve.
	lateParts = 6
	// maxLate bounds the part that may be late: an objective for half of the requests must not let
	// all of them wait.
	maxLate = 0.2
	// memoryPart is the part of DownDelay whose arrivals count.
	memoryPart = 0.75
	// forgottenPart is the part of the largest mean rate that the capacity for all known arrivals
	// does not include. Bursts above a mean rate are kept, because they recur, and a mean rate that
	// has fallen is followed down.
	forgottenPart = 0.4
	// margin multiplies the least capacity, and increases by marginPerMinute for each minute of a
	// cold start up to maxMargin: demand changes more in a longer time.
	margin          = 1.1
	marginPerMinute = 0.03
	maxMargin       = 1.4
	// maxLateWait is how many seconds requests may wait for capacity if every one of them misses the
	// objective anyway: replicas for each burst would change nothing.
	maxLateWait = 10
	// drainWaits is the multiple of wait in which the present queue is to be served, at most maxDrain
	// seconds. Replicas for a shorter time would often be ready when the queue is gone.
	drainWaits = 16
	maxDrain   = 600
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
		wait: wait, late: max(missed, min(maxLate, lateParts*missed)), missed: missed,
		memory: max(steps(p.StableWindow), int(memoryPart*float64(steps(p.DownDelayOrDefault())))),
		stable: steps(p.StableWindow),
		unit:   1 / best.Rate, drain: min(maxDrain, max(1, drainWaits*wait)),
		margin: min(maxMargin, margin+marginPerMinute*p.ColdStart.Minutes()),
	}
}

// capacity returns the least capacity that is enough for the recent arrivals, and for the bursts
// among all known arrivals. It is not below the mean rate of the recent arrivals, because the queue
// would grow forever.
func (z sizing) capacity(arrived []float64) float64 {
	recent := arrived[max(0, len(arrived)-z.memory):]
	mean := average(recent)
	kept := 0.0
	if len(arrived) > z.stable {
		kept = z.least(arrived[z.stable:]) - forgottenPart*z.largestMean(arrived)
	}
	return max(mean, z.margin*max(z.least(recent), kept))
}

// largestMean returns the largest mean rate over a stable window. Every known arrival but those of
// the first window is the end of one, so that bursts and mean rates are forgotten together.
func (z sizing) largestMean(arrived []float64) (largest float64) {
	sum := 0.0
	for i, came := range arrived {
		if sum += came; i >= z.stable {
			sum -= arrived[i-z.stable]
			largest = max(largest, sum/float64(z.stable))
		}
	}
	return largest
}

func average(series []float64) (mean float64) {
	for _, v := range series {
		mean += v / float64(len(series))
	}
	return mean
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
