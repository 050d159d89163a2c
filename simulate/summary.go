package simulate

import (
	"sort"
	"time"
)

// Summary holds the figures to compare policies by.
type Summary struct {
	Requests int
	// Mean, P50, P95, P99 and Max are statistics of the wait from arrival to the start of service.
	Mean, P50, P95, P99, Max time.Duration
	// Over1 and Over10 are the parts of the requests that waited longer than 1 s and 10 s, 0 to 1.
	Over1, Over10 float64
	// ReplicaHours is the replica-hours by class, and Cost their cost.
	ReplicaHours []float64
	Cost         float64
	Reversals    int
}

// Summarize summarizes a result. classes must be those of the replay.
func Summarize(r Result, classes []Class) Summary {
	waits := append([]time.Duration(nil), r.Waits...)
	sort.Slice(waits, func(i, j int) bool { return waits[i] < waits[j] })
	var total time.Duration
	for _, w := range waits {
		total += w
	}
	at := func(part float64) time.Duration { return waits[min(int(part*float64(len(waits))), len(waits)-1)] }
	over := func(d time.Duration) float64 {
		return float64(len(waits)-sort.Search(len(waits), func(i int) bool {
			return waits[i] > d
		})) / float64(len(waits))
	}
	s := Summary{
		Requests: len(waits), Mean: total / time.Duration(len(waits)),
		P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: waits[len(waits)-1],
		Over1: over(time.Second), Over10: over(10 * time.Second), Reversals: r.Reversals,
	}
	for c, t := range r.ReplicaTime {
		s.ReplicaHours = append(s.ReplicaHours, t.Hours())
		s.Cost += t.Hours() * classes[c].Cost
	}
	return s
}

// TotalHours returns the sum of ReplicaHours.
func (s Summary) TotalHours() float64 {
	sum := 0.0
	for _, h := range s.ReplicaHours {
		sum += h
	}
	return sum
}

// Period is one line of a timeline.
type Period struct {
	From       time.Duration
	Arrivals   int
	MeanDemand float64
	MaxDemand  float64
	MaxQueued  int
	// P95 is the 95th percentile of the waits of requests that arrived in the period.
	P95 time.Duration
	// Ready and Desired are the replicas by class at the end of the period.
	Ready, Desired []int
}

// Periods divides a replay into periods of equal length.
func Periods(r Result, trace []Request, length time.Duration) []Period {
	var out []Period
	next := 0
	for from := 0; from < len(r.Timeline); from += int(length / Step) {
		samples := r.Timeline[from:min(from+int(length/Step), len(r.Timeline))]
		last := samples[len(samples)-1]
		p := Period{From: samples[0].At - Step, Ready: last.Ready, Desired: last.Desired}
		for _, s := range samples {
			p.MeanDemand += s.Demand / float64(len(samples))
			p.MaxDemand = max(p.MaxDemand, s.Demand)
			p.MaxQueued = max(p.MaxQueued, s.Queued)
		}
		var waits []time.Duration
		for ; next < len(trace) && trace[next].At < last.At; next++ {
			waits = append(waits, r.Waits[next])
		}
		p.Arrivals = len(waits)
		if len(waits) > 0 {
			sort.Slice(waits, func(i, j int) bool { return waits[i] < waits[j] })
			p.P95 = waits[len(waits)*95/100]
		}
		out = append(out, p)
	}
	return out
}
