package scale

import (
	"math"
	"slices"
)

// Need is what a policy makes of the demand, in requests served at once.
type Need struct {
	// Demand is what capacity is wanted for; the rest says why.
	Demand float64
	// Unit is the class in replicas of which all of it counts, "" for requests at once.
	Unit string
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
	n.Held = n.Demand > max(h.levels[len(h.levels)-1], n.Forecast)
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
// forecast where it is higher. A forecast is held until its time has come and shows in
// the average, so that a wrong one costs no more.
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

// firstFull is the first time of a series that counts. Averages of a window that is not
// full yet are noise; as far as the series is long enough they are left out, so that a
// sliding series does not drag a new first sample along as if it were a peak.
func (p Policy) firstFull(length int) int {
	if stable := steps(p.StableWindow); length >= 2*stable {
		return stable - 1
	}
	return min(length, steps(p.PanicWindow)) - 1
}

// measure returns the averages at one time, and the level that they make.
func (p Policy) measure(sums, series []float64, i int, recent *slidingMax) (n Need, level float64) {
	stable, panics := steps(p.StableWindow), steps(p.PanicWindow)
	n = Need{Stable: mean(sums, i+1, stable), Panic: mean(sums, i+1, panics)}
	// Out of idleness there is nothing to average with: the newest second
	// counts in full, so that a burst is met by one change of count.
	if quiet := i + 1 - panics; quiet > 0 && sums[quiet] == sums[max(0, quiet-stable)] {
		n.Panic = max(n.Panic, series[i])
	}
	if n.Panic >= p.PanicThreshold*recent.add(n.Stable) && n.Panic > n.Stable {
		n.Panicking = true
		return n, n.Panic
	}
	return n, n.Stable
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

const (
	// shortest is the shortest history, in steps, that a slope is taken from.
	shortest = 3 * blocks
	// steepest is how many times what is there a forecast may add to it.
	steepest = 3
	// farthest is how many times its own length a line is extended by.
	farthest = 2
	// doubt is how much more certain half of a window must be than the whole: it
	// shows a rise that has just begun, and noise.
	doubt = 2
)

// forecast returns the demand that is expected one ColdStart ahead, or 0 where it does
// not rise beyond doubt: by ForecastWindow, or by the history where that is shorter,
// and by the newer half of it.
func (p Policy) forecast(sums []float64, end int) float64 {
	size := min(steps(p.ForecastWindow), end) / blocks
	if size*blocks < shortest {
		return 0
	}
	whole := p.ahead(sums, end, size, p.ForecastConfidence)
	if size /= 2; size*blocks < shortest {
		return whole
	}
	return max(whole, p.ahead(sums, end, size, doubt*p.ForecastConfidence))
}

// ahead extends the least-squares line through the averages of the last ten blocks by
// ColdStart. The slope counts in full where it is many times its standard error, less
// and less the nearer it comes to confidence times that, and below not at all.
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
	return now + min(slope*min(p.ColdStart.Seconds(), farthest*length), steepest*now)
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
