package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"aliquot.example/internal/dispatch"
)

// errOverdue is the cancellation cause of a request whose deadline has passed.
var errOverdue = errors.New("the deadline of the request has passed")

func (x *exchange) overdue() bool {
	return x.ctx != nil && errors.Is(context.Cause(x.ctx), errOverdue)
}

// A replica without any answer for this multiple of the mean counts as hanging. The service times
// of language models vary widely, but an exponential time exceeds four times its mean in only 2 of
// 100 cases, and a single failure does not eject a replica.
const (
	hangFactor           = 4
	otherClassHangFactor = 16 // for the mean of other classes, which may be faster
	minHangTime          = 100 * time.Millisecond
)

// abandoned returns the verdict about a replica whose request ended before its answer began: before
// the first token of a stream, or the header of any other answer. If the client left early, the
// verdict is neutral. If it waited for a multiple of the mean time, the replica hangs.
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
	limit := hangFactor * times.mean(e.Class, work)
	if limit == 0 {
		limit = otherClassHangFactor * times.slowest(work)
	}
	limit *= time.Duration(1 + x.service.config.Queue.SendAhead) // it may have waited behind others there
	if limit > 0 && time.Since(x.attempts.began) > max(limit, minHangTime) {
		return dispatch.Failed
	}
	return dispatch.Neutral
}

// means has the mean duration of a service's answers, whole or up to the first token, and their
// mean work, by class.
type means struct {
	mu      sync.Mutex
	classes map[string]*meanTime
}

type meanTime struct {
	n       int
	seconds float64
	work    float64 // in tokens, 0 if work is not counted
}

// of returns the mean time for a request. It is longer for a request with more work than the mean:
// otherwise a client that asks for much and leaves would make the replica look as if it hung.
func (t *meanTime) of(work float64) time.Duration {
	seconds := t.seconds
	if t.work > 0 {
		seconds *= max(1, work/t.work)
	}
	return time.Duration(min(seconds, time.Hour.Seconds()) * float64(time.Second))
}

// meanOf is the number of answers in a mean. Older answers lose weight.
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

// mean returns the mean of a class, 0 while it is unknown.
func (m *means) mean(class string, work float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.classes[class]; t != nil {
		return t.of(work)
	}
	return 0
}

// slowest returns the longest mean of all classes.
func (m *means) slowest(work float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := time.Duration(0)
	for _, t := range m.classes {
		longest = max(longest, t.of(work))
	}
	return longest
}
