package nvidia

import (
	"time"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
)

const (
	// hangTime is how long the calls about one GPU may take before the GPU counts as hung.
	// Such calls may never return and cannot be cancelled, so each GPU is read in a separate
	// goroutine that does not delay the others.
	hangTime = 10 * time.Second
	// firstTime replaces hangTime for the first reading of a GPU, because the first calls wake
	// it, which takes seconds.
	firstTime = 25 * time.Second
)

// answer is what the calls about one GPU returned.
type answer struct {
	handle nvml.Device
	one    reading
	r      nvml.Return
	hung   bool // the calls have not returned
}

// question is a set of calls about one GPU that may not have returned yet.
type question struct {
	answer chan answer
	since  time.Time
	late   bool
}

// ask starts the calls of a round about one GPU. The caller holds mu for reading.
func (l *library) ask(index int) *question {
	q := &question{answer: make(chan answer, 1), since: time.Now()}
	l.flight.Add(1)
	go func() {
		defer l.flight.Done()
		var a answer
		if a.handle, a.r = l.nvml.DeviceByIndex(index); a.r == nvml.Success {
			a.one, a.r = l.describe(a.handle, index)
		}
		q.answer <- a
	}()
	return q
}

// askAll reads all GPUs concurrently and returns their answers by index. It does not repeat calls of
// an earlier round that have not returned. Only read calls it.
func (l *library) askAll(count int) []answer {
	if l.asking == nil {
		l.asking = map[int]*question{}
	}
	for i := range count {
		if l.asking[i] == nil {
			l.asking[i] = l.ask(i)
		}
	}
	out := make([]answer, count)
	for i := range count {
		limit := firstTime
		if _, known := l.last[i]; known {
			limit = hangTime
		}
		out[i] = l.asking[i].await(limit)
		if !out[i].hung {
			delete(l.asking, i)
		}
	}
	return out
}

// await waits for an answer until limit after the question's start. It does not wait for a question
// that was late before.
func (q *question) await(limit time.Duration) answer {
	wait := time.Until(q.since.Add(limit))
	if q.late {
		wait = 0
	}
	timer := time.NewTimer(max(0, wait))
	defer timer.Stop()
	select {
	case a := <-q.answer:
		return a
	case <-timer.C:
	}
	select {
	case a := <-q.answer: // both were ready
		return a
	default:
	}
	q.late = true
	return answer{r: nvml.Timeout, hung: true}
}

// withTimeout runs calls about one GPU and reports whether they returned in time. It does nothing while
// earlier guarded calls about that GPU have not returned. The caller holds mu for reading.
func (l *library) withTimeout(id gpu.ID, calls func()) bool {
	if _, open := l.stuck.LoadOrStore(id, true); open {
		return false
	}
	done := make(chan struct{})
	l.flight.Add(1)
	go func() {
		defer l.flight.Done()
		defer l.stuck.Delete(id)
		calls()
		close(done)
	}()
	return inTime(done)
}

// inTime reports whether calls have returned before they count as hung. done is closed when they have.
func inTime(done <-chan struct{}) bool {
	late := time.NewTimer(hangTime)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// drain waits until no call is in flight, and reports whether all have returned in time.
func (l *library) drain() bool {
	done := make(chan struct{})
	go func() {
		l.flight.Wait()
		close(done)
	}()
	return inTime(done)
}
