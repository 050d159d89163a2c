package line

import (
	"time"

	"aliquot.example/internal/dispatch"
)

// depth is how many seconds of concurrency are kept.
const depth = 3600

// series keeps, for each of the last seconds, the time-weighted mean of requests
// waiting and being served, and of their tokens.
type series struct {
	at      time.Time // up to where the running second is integrated
	second  int64     // the running second, Unix
	now     []float64 // level at present: queued, active, then those per class
	sums    []float64 // seconds x level of the running second
	ring    [depth][]float64
	classes map[string]int // class to its first column
	names   []string
	first   int64 // the first second that was seen from its start
}

const (
	queuedColumn = iota
	activeColumn
	queuedTokensColumn
	activeTokensColumn
	fixedColumns
)

// classColumns are those of a class: requests being served, and their tokens.
const classColumns = 2

// amount is a change of what waits or is served.
type amount struct{ requests, tokens int }

func (a amount) plus(b amount) amount { return amount{a.requests + b.requests, a.tokens + b.tokens} }

func (a amount) less() amount { return amount{-a.requests, -a.tokens} }

// expected is how many tokens a request has while it waits: those that it will have on
// average while it is served.
func expected(r *dispatch.Request) int { return r.Prompt + r.Output/2 }

// starting is how many tokens a request has when it starts: those of its prompt, to which
// its answer is added as it comes. An answer that is not seen counts by half throughout.
func (l *Line) starting(r *dispatch.Request) int {
	if r.Whole || l.options.Policy.Mode != dispatch.Tokens {
		return expected(r)
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
		// The clock was set back: without this nothing would be recorded until it
		// has come again to where it was.
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
			// Nothing changed for longer than is kept: the levels held throughout.
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
	// Tokens are those of the requests; of a language model.
	Tokens PointTokens
}

// PointTokens is the mean number of tokens of one second. A request has those of its
// prompt and of its answer so far; while it waits, or where its answer is not seen as it
// comes, half of the answer that is expected.
type PointTokens struct {
	Queued, Active float64
	Class          map[string]float64 // active
}

// Concurrency returns the whole seconds of the window before now, oldest first;
// at most an hour, and fewer while the gateway is younger than the window.
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

// point is what the sums of a second say. The second may be older than a class is known.
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
