package scale

import (
	"math"
	"slices"
)

// Need is the demand as a policy evaluates it, in concurrent requests unless Unit is set.
type Need struct {
	// Demand is the demand to provide capacity for. The other fields explain it.
	Demand float64
	// Unit is the class in whose replicas the figures count, "" for concurrent requests.
	Unit string
	// Stable and Panic are the two averages at the end of the series.
	Stable, Panic float64
	// Newest is the largest sample in the panic window.
	Newest float64
	// Forecast is the expected demand one cold start ahead, 0 without a clear rise.
	Forecast float64
	// Held means that Demand is an earlier peak, higher than the present demand.
	Held bool
	// Panicking means that the panic average applies at the end of the series. With an objective it
	// means that requests came within the last cold start, after a quiet StableWindow.
	Panicking bool
	// Idle means that there was no request for DownDelay and ZeroGrace.
	Idle bool
	// Complete means that the series is long enough to shrink by it.
	Complete bool
}

// need returns the need at the end of a history.
func (p Policy) need(h history, series []float64) Need {
	n := h.last
	n.Demand = h.held[len(h.held)-1]
	n.Held = n.Demand > max(h.levels[len(h.levels)-1], n.Forecast)
	n.Newest = slices.Max(series[max(0, len(series)-steps(p.PanicWindow)):])
	n.Complete = len(series) >= steps(p.Window())
	n.Idle = p.idle(series)
	return n
}

// idle reports whether the series covers DownDelay and ZeroGrace without any request.
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

// history is the evaluation of a series at each of its seconds.
type history struct {
	// levels is the demand at each second, before earlier peaks are held.
	levels []float64
	// held is, at each second, the largest level so far, or a higher forecast. A level older than
	// DownDelay is multiplied by Decay, one older than twice DownDelay by Decay squared, and so on.
	held []float64
	last Need
}

// replay evaluates a series of demand: the mean number of queued and active requests in each Step,
// oldest first, without gaps, ending now, not empty. The level is the stable average, or the panic
// average in a burst. A higher forecast replaces it. A forecast is held for one ColdStart; after
// that the averages show whether it was right, so a wrong one costs nothing more.
func (p Policy) replay(series []float64) history {
	sums := make([]float64, len(series)+1)
	for i, d := range series {
		sums[i+1] = sums[i] + d
	}
	start := p.firstFull(len(series))
	h := history{levels: make([]float64, 0, len(series)-start)}
	forecasts := make([]float64, 0, len(series)-start)
	recent := slidingMax{window: steps(p.DownDelayOrDefault())}
	expected := slidingMax{window: max(1, steps(p.ColdStart))}
	for i := start; i < len(series); i++ {
		n, level := p.measure(sums, series, i, &recent)
		if p.ForecastWindow > 0 {
			n.Forecast = p.forecast(sums, i+1)
		}
		h.levels = append(h.levels, level)
		forecasts = append(forecasts, expected.add(n.Forecast))
		h.last = n
	}
	h.held = p.hold(h.levels)
	for i, f := range forecasts {
		h.held[i] = max(h.held[i], f)
	}
	return h
}

// firstFull returns the index of the first second that is evaluated. The average of a window that
// is not yet full is noise. A sliding series would carry the noise of its first sample along as a
// peak, so firstFull skips these seconds if the series is long enough.
func (p Policy) firstFull(length int) int {
	if stable := steps(p.StableWindow); length >= 2*stable {
		return stable - 1
	}
	return min(length, steps(p.PanicWindow)) - 1
}

// measure returns the averages at one second, and the level that follows from them.
func (p Policy) measure(sums, series []float64, i int, recent *slidingMax) (n Need, level float64) {
	stable, panics := steps(p.StableWindow), steps(p.PanicWindow)
	n = Need{Stable: mean(sums, i+1, stable), Panic: mean(sums, i+1, panics)}
	// After a quiet period the average says nothing about a burst. The newest second counts in
	// full, so that one change of the count is enough for the burst.
	if quiet := i + 1 - panics; quiet > 0 && sums[quiet] == sums[max(0, quiet-stable)] {
		n.Panic = max(n.Panic, series[i])
	}
	if n.Panic >= p.PanicThreshold*recent.add(n.Stable) && n.Panic > n.Stable {
		n.Panicking = true
		return n, n.Panic
	}
	return n, n.Stable
}

// mean returns the mean of the last n samples before end, or of fewer at the start of the series.
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

// blocks is the number of block averages that a slope is fitted to.
const blocks = 10

const (
	// minHistory is the minimum history for a forecast, in steps.
	minHistory = 3 * blocks
	// maxForecastRatio bounds what a forecast adds, as a multiple of the present demand.
	maxForecastRatio = 3
	// maxExtrapolation bounds the extrapolation, as a multiple of the fitted length.
	maxExtrapolation = 2
	// newHalfFactor multiplies the required confidence for the newer half of the window. The half shows a
	// rise that has just begun, but also more noise.
	newHalfFactor = 2
)

// forecast returns the expected demand one ColdStart ahead, or 0 if the demand does not clearly
// rise. It fits ForecastWindow, or the history if that is shorter, and also the newer half of it,
// and returns the higher of both.
func (p Policy) forecast(sums []float64, end int) float64 {
	size := min(steps(p.ForecastWindow), end) / blocks
	if size*blocks < minHistory {
		return 0
	}
	whole := p.ahead(sums, end, size, p.ForecastConfidence)
	if size /= 2; size*blocks < minHistory {
		return whole
	}
	return max(whole, p.ahead(sums, end, size, newHalfFactor*p.ForecastConfidence))
}

// ahead extrapolates the least-squares line through the averages of the last ten blocks by
// ColdStart. A slope of confidence standard errors or less counts as 0. A steeper slope is reduced,
// by less the more certain it is (see Policy.ForecastWindow).
func (p Policy) ahead(sums []float64, end, size int, confidence float64) float64 {
	from := end - blocks*size
	const middle, sxx = (blocks - 1) / 2.0, (blocks*blocks*blocks - blocks) / 12.0
	average := (sums[end] - sums[from]) / float64(blocks*size)
	var sxy, syy float64
	for b := range blocks {
		y := (sums[from+(b+1)*size]-sums[from+b*size])/float64(size) - average
		sxy += (float64(b) - middle) * y
		syy += y * y
	}
	slope := sxy / sxx
	noise := confidence * math.Sqrt(max(0, syy-slope*sxy)/(blocks-2)/sxx)
	if slope <= noise || slope <= 0 {
		return 0
	}
	slope *= (1 - noise/slope*noise/slope) / float64(size)
	length := float64(blocks * size)
	now := average + slope*length/2
	return now + min(slope*min(p.ColdStart.Seconds(), maxExtrapolation*length), maxForecastRatio*now)
}

// slidingMax returns the largest of the last window values.
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
