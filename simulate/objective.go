package simulate

import "time"

// Objective is the latency that is promised. A limit of 0 means no promise.
type Objective struct {
	TTFT time.Duration // from arrival to the first token
	TPOT time.Duration // mean time per token after the first
	E2E  time.Duration // from arrival to the last token
}

// met reports whether a request with the given times of its first and last token was within the
// objective.
func (o Objective) met(q Request, first, end time.Duration) bool {
	within := func(took, limit time.Duration) bool { return limit <= 0 || took <= limit }
	each := (end - first) / time.Duration(max(1, q.OutputTokens-1))
	return within(first-q.At, o.TTFT) && within(each, o.TPOT) && within(end-q.At, o.E2E)
}

// Attained returns the part of all requests that were within the objective, 0 to 1.
func (r Result) Attained(trace []Request, o Objective) float64 {
	met := 0
	for i, q := range trace {
		if r.Ends[i] > 0 && o.met(q, r.Firsts[i], r.Ends[i]) {
			met++
		}
	}
	return float64(met) / float64(max(1, len(trace)))
}
