// Package recent remembers the requests that an operator asks about: for each service
// the last ones that failed, and the slowest of each minute.
package recent

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"aliquot.example/internal/api"
)

const (
	// mostFailed is how many failures are kept of each outcome, so that a flood of one
	// kind does not hide the others.
	mostFailed = 8
	// mostSlow is how many requests are kept of each minute, over the last minutes.
	mostSlow, minutes = 4, 20
)

// Requests are those of one service. The zero value is ready for use.
type Requests struct {
	// minute is the minute of the newest request, and bar the time in milliseconds that a
	// request of it must take to be among its slowest: nearly all requests are compared
	// with these two and leave nothing behind.
	minute atomic.Int64
	bar    atomic.Uint64 // bits of a float64

	mu     sync.Mutex
	slow   [minutes]slowest
	failed map[string]*failures
}

// slowest are the slowest requests of one minute, the fastest of them first.
type slowest struct {
	minute   int64
	requests []api.Request
}

// failures are the last of one outcome, as a ring.
type failures struct {
	ring [mostFailed]api.Request
	next int
}

// Slow reports whether a request that ended at a Unix second and took so many
// milliseconds is among the slowest of its minute so far.
func (r *Requests) Slow(ended int64, took float64) bool {
	return ended/60 != r.minute.Load() || took > math.Float64frombits(r.bar.Load())
}

// Add keeps a request, where it failed or is among the slowest of its minute. ended is
// the Unix second in which it ended.
func (r *Requests) Add(ended int64, q *api.Request, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failed {
		r.fail(q)
	}
	minute := ended / 60
	s := &r.slow[minute%minutes]
	if s.minute != minute { // an earlier one, or a later one of a clock that was set back
		s.minute, s.requests = minute, s.requests[:0]
	}
	at, _ := slices.BinarySearchFunc(s.requests, q, func(a api.Request, b *api.Request) int {
		return cmp.Compare(a.Total, b.Total)
	})
	s.requests = slices.Insert(s.requests, at, *q)
	bar := 0.0
	if over := len(s.requests) - mostSlow; over >= 0 {
		s.requests = slices.Delete(s.requests, 0, over)
		bar = s.requests[0].Total
	}
	r.minute.Store(minute)
	r.bar.Store(math.Float64bits(bar))
}

func (r *Requests) fail(q *api.Request) {
	f := r.failed[q.Outcome]
	if f == nil {
		if r.failed == nil {
			r.failed = map[string]*failures{}
		}
		f = &failures{}
		r.failed[q.Outcome] = f
	}
	f.ring[f.next%mostFailed] = *q
	f.next++
}

// List returns what is kept at a Unix second, the newest first.
func (r *Requests) List(now int64) (slow, failed []api.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slow, failed = []api.Request{}, []api.Request{}
	for i := range r.slow {
		if s := &r.slow[i]; s.minute > now/60-minutes && s.minute <= now/60 {
			slow = append(slow, s.requests...)
		}
	}
	for _, f := range r.failed {
		failed = append(failed, f.ring[:min(f.next, mostFailed)]...)
	}
	newest := func(a, b api.Request) int { return b.Began.Compare(a.Began) }
	slices.SortFunc(slow, newest)
	slices.SortFunc(failed, newest)
	return slow, failed
}
