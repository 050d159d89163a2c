package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"aliquot.example/internal/dispatch"
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

// abandoned says what it tells of a replica that a request ended before anything of
// its answer was there: of a stream of tokens the first token, of others the header.
// A client that leaves early says nothing; one that waited for a multiple of what
// others wait is evidence that the replica hangs.
func (x *exchange) abandoned() dispatch.Verdict {
	e, r := x.pass.Endpoint, x.reading
	if e == nil {
		return dispatch.Neutral
	}
	begun := x.answer.body != nil
	times, work := classMetricsOf(e).means, 0.0
	switch {
	case r != nil && (r.streams() || !begun && r.size.Streamed):
		begun = begun && (!r.streams() || !r.first.IsZero())
		times, work = classMetricsOf(e).firsts, float64(r.prompt)
	case r != nil:
		work = r.most()
	}
	if begun {
		return dispatch.Neutral
	}
	limit := hangs * times.mean(e.Class, work)
	if limit == 0 {
		limit = hangsBeside * times.slowest(work)
	}
	if limit > 0 && time.Since(x.attempts.began) > max(limit, hangsLeast) {
		return dispatch.Failed
	}
	return dispatch.Neutral
}

// means keeps how long answers of a service took, whole or up to their first token,
// and how much work they were, by class.
type means struct {
	mu      sync.Mutex
	classes map[string]*meanTime
}

type meanTime struct {
	n       int
	seconds float64
	work    float64 // tokens; 0 where work is not counted
}

// of is the mean for a request of so much work, if that is more than others have:
// else whoever asks for much and leaves would make a replica look as if it hung.
func (t *meanTime) of(work float64) time.Duration {
	seconds := t.seconds
	if t.work > 0 {
		seconds *= max(1, work/t.work)
	}
	return time.Duration(min(seconds, time.Hour.Seconds()) * float64(time.Second))
}

// meanOf is how many answers the mean counts; older ones lose weight.
const meanOf = 64

func (m *means) add(class string, d time.Duration, work float64) {
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
	if work > 0 {
		t.work += (work - t.work) / float64(t.n)
	}
}

// mean is 0 while nothing is known of the class.
func (m *means) mean(class string, work float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.classes[class]; t != nil {
		return t.of(work)
	}
	return 0
}

// slowest is the longest mean of all classes.
func (m *means) slowest(work float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := time.Duration(0)
	for _, t := range m.classes {
		longest = max(longest, t.of(work))
	}
	return longest
}
