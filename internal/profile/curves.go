package profile

// Point is a cell and what its rounds came to.
type Point struct {
	Cell
	Rounds int  `json:"rounds"`
	First  Mean `json:"ttft_s"` // of the mean request of a round
	Pace   Mean `json:"tpot_s"`
	// Step is the time of a token while all were written and none was read, with KV
	// tokens in the cache; without rounds where there was no such time.
	Step   Mean    `json:"step_s"`
	KV     float64 `json:"kv_tokens"`
	Tokens float64 `json:"prompt_tokens"` // of a prompt, as the server counts
	// Written is tokens of answers a second over the round.
	Written Mean `json:"tokens_per_s"`
}

// PointOf sums the rounds of a cell up.
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

// Figures are the values of a cell's rounds that must be known well: of the time to the
// first token where a request was alone, and of the step.
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

// Reading is how long a prompt takes to read: Start + Prefill t (1 + Growth t/2) seconds
// for t tokens.
type Reading struct {
	Start, Prefill, Growth float64
	Line                   Line
	Of                     []Point
}

// aStep is up to how many steps a prompt counts as read within one.
const aStep = 1.2

// ReadingOf fits the points with one request at a time. A prompt that is short takes as
// long as a step of one answer, however short it is, and is left out; step is how long
// that is, 0 where it is not known.
func ReadingOf(points []Point, step float64) (Reading, bool) {
	var r Reading
	var rows [][]float64
	var y []float64
	for _, p := range points {
		if p.Concurrency == 1 && p.Tokens > 0 && p.First.Value > aStep*step {
			rows, y, r.Of = append(rows, []float64{1, p.Tokens, p.Tokens * p.Tokens}), append(y, p.First.Value),
				append(r.Of, p)
		}
	}
	l, ok := fitted(rows, y)
	if !ok && len(rows) == 2 { // no three lengths to see a growth by
		for i := range rows {
			rows[i] = rows[i][:2]
		}
		if l, ok = fitted(rows, y); ok {
			l.Coefficients, l.Errors = append(l.Coefficients, 0), append(l.Errors, 0)
		}
	}
	if !ok {
		return Reading{}, false
	}
	r.Line, r.Start, r.Prefill = l, l.Coefficients[0], l.Coefficients[1]
	if r.Prefill > 0 {
		r.Growth = 2 * l.Coefficients[2] / r.Prefill
	}
	return r, true
}

// Stepping is how long a step takes: A + B n + C kv seconds with n requests and kv tokens
// in the cache.
type Stepping struct {
	A, B, C float64
	Line    Line
	Of      []Point
}

// SteppingOf fits the points that have steps.
func SteppingOf(points []Point) (Stepping, bool) {
	var s Stepping
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
		return Stepping{}, false
	}
	s.Line, s.A, s.B, s.C = l, l.Coefficients[0], l.Coefficients[1], l.Coefficients[2]
	return s, true
}
