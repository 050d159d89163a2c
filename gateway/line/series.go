package line

import (
	"time"

	"aliquot.example/internal/dispatch"
)

// depth is the number of stored seconds.
const depth = 3600

// series stores, for each of the last seconds, the time-weighted mean number of waiting and active
// requests, and of their tokens.
type series struct {
	at      time.Time // time up to which the present second is integrated
	second  int64     // the present Unix second
	now     []float64 // present levels: queued, active, then those of each class
	sums    []float64 // integrals of the levels over the present second
	ring    [depth][]float64
	classes map[string]int // first column of each class
	names   []string
	first   int64 // the first complete second
}

const (
	queuedColumn = iota
	activeColumn
	queuedTokensColumn
	activeTokensColumn
	fixedColumns
)

// classColumns is the number of columns of a class: active requests, and their tokens.
const classColumns = 2

// amount is a number of requests with their tokens.
type amount struct{ requests, tokens int }

func (a amount) plus(b amount) amount { return amount{a.requests + b.requests, a.tokens + b.tokens} }

func (a amount) negated() amount { return amount{-a.requests, -a.tokens} }

// expectedTokens returns the tokens of a waiting request: the mean number that it will have while it is
// served.
func expectedTokens(r *dispatch.Request) int { return r.Prompt + r.Output/2 }

// startTokens returns the tokens of a request when it starts: those of its prompt. Those of its answer
// are added as they arrive. If the answer does not stream, half of it counts from the start.
func (l *Line) startTokens(r *dispatch.Request) int {
	if r.Whole || l.options.Policy.Mode != dispatch.Tokens {
		return expectedTokens(r)
	}
	return r.Prompt
}

func (s *series) start(now time.Time) {
	s.at, s.second, s.first = now, now.Unix(), now.Unix()+1
	s.now, s.sums = make([]float64, fixedColumns), make([]float64, fixedColumns)
	s.classes = map[string]int{}
}

func (s *series) queued(now time.Time, d amount) {
	s.advance(now)
	s.now[queuedColumn] += float64(d.requests)
	s.now[queuedTokensColumn] += float64(d.tokens)
}

func (s *series) active(now time.Time, class string, d amount) {
	s.advance(now)
	s.now[activeColumn] += float64(d.requests)
	s.now[activeTokensColumn] += float64(d.tokens)
	at := s.column(class)
	s.now[at] += float64(d.requests)
	s.now[at+1] += float64(d.tokens)
}

func (s *series) column(class string) int {
	c, ok := s.classes[class]
	if !ok {
		c = len(s.now)
		s.classes[class] = c
		s.names = append(s.names, class)
		s.now, s.sums = append(s.now, make([]float64, classColumns)...),
			append(s.sums, make([]float64, classColumns)...)
	}
	return c
}

// advance integrates up to now and closes the seconds that have passed.
func (s *series) advance(now time.Time) {
	if second := now.Unix(); second < s.second-1 {
		// The clock was set back. Without this, nothing would be recorded until it reaches its old
		// time.
		s.at, s.second, s.first = now, second, min(s.first, second+1)
		clear(s.sums)
	}
	for now.Unix() > s.second {
		end := time.Unix(s.second+1, 0)
		s.integrate(end)
		s.ring[s.second%depth] = append(s.ring[s.second%depth][:0], s.sums...)
		clear(s.sums)
		s.at = end
		if s.second++; now.Unix()-s.second > depth {
			// Nothing has changed for longer than depth: all stored seconds have the same levels.
			s.second = now.Unix() - depth
			s.at = time.Unix(s.second, 0)
		}
	}
	if now.After(s.at) {
		s.integrate(now)
		s.at = now
	}
}

func (s *series) integrate(until time.Time) {
	dt := until.Sub(s.at).Seconds()
	if dt <= 0 {
		return
	}
	for i, level := range s.now {
		s.sums[i] += level * dt
	}
}

// Point is the mean concurrency of one second.
type Point struct {
	Second         int64 // Unix
	Queued, Active float64
	Class          map[string]float64 // active
	// Tokens are the tokens of the requests to a language model.
	Tokens PointTokens
}

// PointTokens is the mean number of tokens in one second. A request has the tokens of its prompt
// and of its answer so far. While it waits, or if its answer does not stream, half of the expected
// answer counts instead.
type PointTokens struct {
	Queued, Active float64
	Class          map[string]float64 // active
}

// Concurrency returns the complete seconds of the window before now, the oldest first: at most an
// hour, and none from before the gateway started.
func (l *Line) Concurrency(now time.Time, window time.Duration) []Point {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.series
	s.advance(now)
	n := min(int64(window/time.Second), depth, s.second-s.first)
	points := make([]Point, 0, max(0, n))
	for sec := s.second - n; sec < s.second; sec++ {
		sums := s.ring[sec%depth]
		points = append(points, s.point(sec, sums))
	}
	return points
}

// point converts the sums of a second, which may have fewer classes than are known now.
func (s *series) point(second int64, sums []float64) Point {
	p := Point{Second: second, Class: map[string]float64{}, Tokens: PointTokens{Class: map[string]float64{}}}
	p.Queued, p.Active = sums[queuedColumn], sums[activeColumn]
	p.Tokens.Queued, p.Tokens.Active = sums[queuedTokensColumn], sums[activeTokensColumn]
	for i, name := range s.names {
		if at := fixedColumns + classColumns*i; at < len(sums) {
			p.Class[name], p.Tokens.Class[name] = sums[at], sums[at+1]
		}
	}
	return p
}
