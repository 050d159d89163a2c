package nvidia

import (
	"time"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
)

const (
	// hangTime is how long the calls about one GPU may take before it is said to hang.
	// Such calls may never return and cannot be ended, so each GPU is asked in a
	// goroutine of its own and the others go on.
	hangTime = 10 * time.Second
	// firstTime is the same for a GPU that was not read yet: the first calls wake it,
	// which takes seconds.
	firstTime = 25 * time.Second
)

// answer is what the calls about one GPU returned.
type answer struct {
	handle nvml.Device
	one    reading
	r      nvml.Return
	hung   bool // they have not returned
}

// question is one that was put and may still be open.
type question struct {
	answer chan answer
	since  time.Time
	late   bool
}

// ask puts the questions of a round about one GPU; called with mu held for reading.
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

// askAll asks every GPU at once and returns what they answered by index. A question
// that is still open from an earlier round is not put again; only read uses it.
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

// await gives a question its time, and one that is late none.
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

// guarded runs calls about one GPU and reports whether they returned in time. While
// earlier ones of the same kind have not, it does nothing; called with mu held for
// reading.
func (l *library) guarded(id gpu.ID, calls func()) bool {
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
	late := time.NewTimer(hangTime)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// landed waits until no call is in flight, and reports false where one hangs.
func (l *library) landed() bool {
	done := make(chan struct{})
	go func() {
		l.flight.Wait()
		close(done)
	}()
	late := time.NewTimer(hangTime)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}
