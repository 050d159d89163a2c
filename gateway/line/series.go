package line

import "time"

// depth is how many seconds of concurrency are kept.
const depth = 3600

// series keeps, for each of the last seconds, the time-weighted mean of requests
// waiting and being served.
type series struct {
	at      time.Time // up to where the running second is integrated
	second  int64     // the running second, Unix
	now     []float64 // level at present: queued, active, then one per class
	sums    []float64 // seconds x level of the running second
	ring    [depth][]float64
	classes map[string]int // class to column
	names   []string
	first   int64 // the first second that was seen from its start
}

const (
	queuedColumn = iota
	activeColumn
	fixedColumns
)

func (s *series) start(now time.Time) {
	s.at, s.second, s.first = now, now.Unix(), now.Unix()+1
	s.now, s.sums = make([]float64, fixedColumns), make([]float64, fixedColumns)
	s.classes = map[string]int{}
}

func (s *series) queued(now time.Time, delta float64) {
	s.advance(now)
	s.now[queuedColumn] += delta
}

func (s *series) active(now time.Time, class string, delta float64) {
	s.advance(now)
	s.now[activeColumn] += delta
	s.now[s.column(class)] += delta
}

// started moves one request from waiting to being served.
func (s *series) started(now time.Time, class string) {
	s.active(now, class, +1)
	s.now[queuedColumn]--
}

func (s *series) column(class string) int {
	c, ok := s.classes[class]
	if !ok {
		c = len(s.now)
		s.classes[class] = c
		s.names = append(s.names, class)
		s.now, s.sums = append(s.now, 0), append(s.sums, 0)
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
		p := Point{Second: sec, Class: map[string]float64{}}
		p.Queued, p.Active = sums[queuedColumn], sums[activeColumn]
		for i, name := range s.names {
			if c := fixedColumns + i; c < len(sums) {
				p.Class[name] = sums[c]
			}
		}
		points = append(points, p)
	}
	return points
}
