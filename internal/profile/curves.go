package profile

// Point is a cell and the results of its rounds.
type Point struct {
	Cell
	Rounds int  `json:"rounds"`
	First  Mean `json:"ttft_s"` // of the mean request of a round
	Pace   Mean `json:"tpot_s"`
	// Step is the time per token while all responses were decoding and no prompt was being read,
	// with KV tokens in the cache. Its N is 0 if there was no such time.
	Step   Mean    `json:"step_s"`
	KV     float64 `json:"kv_tokens"`
	Tokens float64 `json:"prompt_tokens"` // of a prompt, as the server counts
	// Written is the output tokens per second over the round.
	Written Mean `json:"tokens_per_s"`
}

// PointOf combines the rounds of a cell.
func PointOf(c Cell, waves []Wave) Point {
	p := Point{Cell: c, Rounds: len(waves)}
	var first, pace, step, written, kv, tokens []float64
	for _, w := range waves {
		first = append(first, MeanOf(w.First).Value)
		if len(w.Pace) > 0 {
			pace = append(pace, MeanOf(w.Pace).Value)
		}
		if w.Step > 0 {
			step, kv = append(step, w.Step), append(kv, w.KV)
		}
		written, tokens = append(written, w.Written/max(w.Took, 1e-9)), append(tokens, w.Prompt)
	}
	p.First, p.Pace, p.Step, p.Written = MeanOf(first), MeanOf(pace), MeanOf(step), MeanOf(written)
	p.KV, p.Tokens = MeanOf(kv).Value, MeanOf(tokens).Value
	return p
}

// Figures returns the values of a cell's rounds that must be precise: the time to the first token
// if the concurrency is 1, and the step time.
func Figures(c Cell, waves []Wave) [][]float64 {
	var first, step []float64
	for _, w := range waves {
		if c.Concurrency == 1 {
			first = append(first, MeanOf(w.First).Value)
		}
		if w.Step > 0 {
			step = append(step, w.Step)
		}
	}
	return [][]float64{first, step}
}

// PrefillFit is the time to read a prompt of t tokens: Start + Prefill t (1 + Growth t/2) seconds.
type PrefillFit struct {
	Start, Prefill, Growth float64
	Line                   Line
	Of                     []Point
}

// singleStepRatio is the multiple of a step up to which a prompt counts as read within one step.
const singleStepRatio = 1.2

// FitPrefill fits the points with a concurrency of 1. It leaves out short prompts: they all take as
// long as one step, whatever their length. step is the time of a step with one response, 0 if
// unknown.
func FitPrefill(points []Point, step float64) (PrefillFit, bool) {
	var r PrefillFit
	var rows [][]float64
	var y []float64
	for _, p := range points {
		if p.Concurrency == 1 && p.Tokens > 0 && p.First.Value > singleStepRatio*step {
			rows, y, r.Of = append(rows, []float64{1, p.Tokens, p.Tokens * p.Tokens}), append(y, p.First.Value),
				append(r.Of, p)
		}
	}
	l, ok := fitted(rows, y)
	if !ok && len(rows) == 2 { // growth needs three lengths
		for i := range rows {
			rows[i] = rows[i][:2]
		}
		if l, ok = fitted(rows, y); ok {
			l.Coefficients, l.Errors = append(l.Coefficients, 0), append(l.Errors, 0)
		}
	}
	if !ok {
		return PrefillFit{}, false
	}
	r.Line, r.Start, r.Prefill = l, l.Coefficients[0], l.Coefficients[1]
	if r.Prefill > 0 {
		r.Growth = 2 * l.Coefficients[2] / r.Prefill
	}
	return r, true
}

// StepFit is the time of a step with n requests and kv tokens in the cache: A + B n + C kv
// seconds.
type StepFit struct {
	A, B, C float64
	Line    Line
	Of      []Point
}

// FitStep fits the points that have step times.
func FitStep(points []Point) (StepFit, bool) {
	var s StepFit
	var rows [][]float64
	var y []float64
	for _, p := range points {
		if p.Step.N > 0 && p.Step.Value > 0 {
			rows, y, s.Of = append(rows, []float64{1, float64(p.Concurrency), p.KV}), append(y, p.Step.Value),
				append(s.Of, p)
		}
	}
	l, ok := fitted(rows, y)
	if !ok {
		return StepFit{}, false
	}
	s.Line, s.A, s.B, s.C = l, l.Coefficients[0], l.Coefficients[1], l.Coefficients[2]
	return s, true
}
