package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"aliquot/internal/dispatch"
)

// errOverdue is the cause by which a request ends whose deadline has passed.
var errOverdue = errors.New("the deadline of the request has passed")

func (x *exchange) overdue() bool {
	return x.ctx != nil && errors.Is(context.Cause(x.ctx), errOverdue)
}

// A replica that gives nothing of an answer for so many times the mean is taken to
// hang: service times of language models spread widely, but an exponential one is
// above four times its mean in 2 of 100 cases only, and one failure ejects nobody.
const (
	hangs       = 4
	hangsBeside = 16 // times the mean of other classes, which may be faster
	hangsLeast  = 100 * time.Millisecond
)

// abandoned says what it tells of a replica that a request ended before its answer
// began. A client that leaves early says nothing; one that waited for a multiple of
// what answers take is evidence that the replica hangs.
func (x *exchange) abandoned() dispatch.Outcome {
	e := x.pass.Endpoint
	if e == nil || x.answer.body != nil {
		return dispatch.Neutral
	}
	limit := hangs * classMetricsOf(e).means.mean(e.Class)
	if limit == 0 {
		limit = hangsBeside * classMetricsOf(e).means.slowest()
	}
	if limit > 0 && time.Since(x.started) > max(limit, hangsLeast) {
		return dispatch.Failed
	}
	return dispatch.Neutral
}

// means keeps how long whole answers of a service took, by class.
type means struct {
	mu      sync.Mutex
	classes map[string]*meanTime
}

type meanTime struct {
	n       int
	seconds float64
}

// meanOf is how many answers the mean counts; older ones lose weight.
const meanOf = 64

func (m *means) add(class string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.classes[class]
	if t == nil {
		if m.classes == nil {
			m.classes = map[string]*meanTime{}
		}
		t = &meanTime{}
		m.classes[class] = t
	}
	t.n = min(t.n+1, meanOf)
	t.seconds += (d.Seconds() - t.seconds) / float64(t.n)
}

// mean is 0 while nothing is known of the class.
func (m *means) mean(class string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.classes[class]; t != nil {
		return time.Duration(t.seconds * float64(time.Second))
	}
	return 0
}

// slowest is the longest mean of all classes.
func (m *means) slowest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := 0.0
	for _, t := range m.classes {
		longest = max(longest, t.seconds)
	}
	return time.Duration(longest * float64(time.Second))
}
