package simulate

import "time"

// Objective is what is promised of an answer; 0 promises nothing.
type Objective struct {
	TTFT time.Duration // from the arrival to the first token
	TPOT time.Duration // from the first token to the last, for each token after the first
	E2E  time.Duration // from the arrival to the last token
}

// met says whether a request with these times of its first and last token was served as
// promised.
func (o Objective) met(q Request, first, end time.Duration) bool {
	within := func(took, limit time.Duration) bool { return limit <= 0 || took <= limit }
	each := (end - first) / time.Duration(max(1, q.OutputTokens-1))
	return within(first-q.At, o.TTFT) && within(each, o.TPOT) && within(end-q.At, o.E2E)
}

// Attained is the part of the requests that were served as promised, 0 to 1.
func (r Result) Attained(trace []Request, o Objective) float64 {
	met := 0
	for i, q := range trace {
		if r.Ends[i] > 0 && o.met(q, r.Firsts[i], r.Ends[i]) {
			met++
		}
	}
	return float64(met) / float64(max(1, len(trace)))
}
