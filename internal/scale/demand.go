package scale

import (
	"math"
	"slices"
)

// Need is what a policy makes of the demand, in requests served at once.
type Need struct {
	// Demand is what capacity is wanted for; the rest says why.
	Demand float64
	// Stable and Panic are the two averages at the end of the series.
	Stable, Panic float64
	// Newest is the most in one Step of the panic window.
	Newest float64
	// Forecast is the demand expected one cold start ahead, 0 without a clear rise.
	Forecast float64
	// Held says that Demand is kept from before and more than is wanted now.
	Held bool
	// Panicking says that the panic average counted at the end of the series.
	Panicking bool
	// Idle says that no request was seen for DownDelay and ZeroGrace.
	Idle bool
	// Complete says that the series is long enough to shrink by it.
	Complete bool
}

// need reads the end of a history.
func (p Policy) need(h history, series []float64) Need {
	n := h.last
	n.Demand = h.held[len(h.held)-1]
	n.Held = n.Demand > h.levels[len(h.levels)-1]
	n.Newest = slices.Max(series[max(0, len(series)-steps(p.PanicWindow)):])
	n.Complete = len(series) >= steps(p.Window())
	n.Idle = p.idle(series)
	return n
}

// idle needs the whole time to be in the series.
func (p Policy) idle(series []float64) bool {
	n := steps(p.DownDelayOrDefault() + p.ZeroGrace)
	if len(series) < n {
		return false
	}
	for _, d := range series[len(series)-n:] {
		if d > 0 {
			return false
		}
	}
	return true
}

// history is what a series means at each time of it.
type history struct {
	// levels is the demand before any of it is held for later.
	levels []float64
	// held is, at each time, the largest level so far, where a level older than
	// DownDelay counts Decay of it, older than two of them Decay squared, and so on.
	held []float64
	last Need
}

// replay walks through a series of demand: the mean number of requests queued and
// active in each Step, oldest first, without gaps, ending now, not empty. The
// level at each time is the stable average, in a burst the panic average, and the
// forecast where it is higher.
func (p Policy) replay(series []float64) history {
	sums := make([]float64, len(series)+1)
	for i, d := range series {
		sums[i+1] = sums[i] + d
	}
	stable, panics := steps(p.StableWindow), steps(p.PanicWindow)
	// Averages of a window that is not full yet are noise; as far as the series is
	// long enough they are left out, so that a sliding series does not drag a new
	// first sample along as if it were a peak.
	start := min(len(series), panics) - 1
	if len(series) >= 2*stable {
		start = stable - 1
	}
	h := history{levels: make([]float64, 0, len(series)-start)}
	recent := slidingMax{window: steps(p.DownDelayOrDefault())}
	for i := start; i < len(series); i++ {
		n := Need{Stable: mean(sums, i+1, stable), Panic: mean(sums, i+1, panics)}
		// Out of idleness there is nothing to average with: the newest second
		// counts in full, so that a burst is met by one change of count.
		if quiet := i + 1 - panics; quiet > 0 && sums[quiet] == sums[max(0, quiet-stable)] {
			n.Panic = max(n.Panic, series[i])
		}
		level := n.Stable
		if n.Panic >= p.PanicThreshold*recent.add(n.Stable) && n.Panic > level {
			n.Panicking, level = true, n.Panic
		}
		if p.ForecastWindow > 0 {
			n.Forecast = p.forecast(sums, i+1, n.Stable)
			level = max(level, n.Forecast)
		}
		h.levels = append(h.levels, level)
		h.last = n
	}
	h.held = p.hold(h.levels)
	return h
}

// mean of the last n samples before end, of fewer at the start of the series.
func mean(sums []float64, end, n int) float64 {
	from := max(0, end-n)
	return (sums[end] - sums[from]) / float64(end-from)
}

func (p Policy) hold(levels []float64) []float64 {
	delay := steps(p.DownDelayOrDefault())
	peaks := make([]float64, len(levels))
	recent := slidingMax{window: delay}
	for i, l := range levels {
		peaks[i] = recent.add(l)
	}
	held := make([]float64, len(levels))
	for i := range held {
		weight := 1.0
		for at := i; at >= 0 && weight > 0; at -= delay {
			held[i] = max(held[i], weight*peaks[at])
			weight *= p.Decay
		}
	}
	return held
}

// blocks is how many averages a slope is fitted through.
const blocks = 10

// forecast returns level + slope x ColdStart, or 0 where the demand does not
// rise beyond doubt. The slope is that of a least-squares line through the
// averages of ten parts of ForecastWindow, less its standard error times
// ForecastConfidence.
func (p Policy) forecast(sums []float64, end int, level float64) float64 {
	size := steps(p.ForecastWindow) / blocks
	from := end - blocks*size
	if from < 0 {
		return 0
	}
	const middle, sxx = (blocks - 1) / 2.0, (blocks*blocks*blocks - blocks) / 12.0
	average := (sums[end] - sums[from]) / float64(blocks*size)
	var sxy, syy float64
	for b := range blocks {
		y := (sums[from+(b+1)*size]-sums[from+b*size])/float64(size) - average
		sxy += (float64(b) - middle) * y
		syy += y * y
	}
	slope := sxy / sxx
	noise := math.Sqrt(max(0, syy-slope*sxy) / (blocks - 2) / sxx)
	slope = (slope - p.ForecastConfidence*noise) / float64(size)
	if slope <= 0 {
		return 0
	}
	return min(2*level, level+slope*p.ColdStart.Seconds())
}

// slidingMax keeps the largest of the last window values.
type slidingMax struct {
	window int
	count  int
	at     []int
	value  []float64
}

func (s *slidingMax) add(v float64) float64 {
	for len(s.value) > 0 && s.value[len(s.value)-1] <= v {
		s.at, s.value = s.at[:len(s.at)-1], s.value[:len(s.value)-1]
	}
	s.at, s.value = append(s.at, s.count), append(s.value, v)
	s.count++
	if s.at[0] <= s.count-1-s.window {
		s.at, s.value = s.at[1:], s.value[1:]
	}
	return s.value[0]
}
