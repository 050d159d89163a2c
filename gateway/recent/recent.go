// Package recent stores requests of interest to an operator: for each service the last failed ones,
// and the slowest ones of each minute.
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
	// maxFailed is the number of stored failures per outcome, so that a flood of one kind does not
	// hide the others.
	maxFailed = 8
	// maxSlow is the number of stored requests per minute, and minutes the number of stored minutes.
	maxSlow, minutes = 4, 20
)

// Requests stores the requests of one service. The zero value is ready for use.
type Requests struct {
	// minute is the minute of the newest request. bar is the duration in milliseconds that a
	// request must exceed to be among the slowest of this minute. Nearly all requests are only
	// compared with these two.
	minute atomic.Int64
	bar    atomic.Uint64 // bits of a float64

	mu     sync.Mutex
	slow   [minutes]slowest
	failed map[string]*failures
}

// slowest has the slowest requests of one minute, in ascending order.
type slowest struct {
	minute   int64
	requests []api.Request
}

// failures is a ring of the last failures with one outcome.
type failures struct {
	ring [maxFailed]api.Request
	next int
}

// Slow reports whether a request is among the slowest of its minute so far. ended is the Unix
// second in which it ended, took its duration in milliseconds.
func (r *Requests) Slow(ended int64, took float64) bool {
	return ended/60 != r.minute.Load() || took > math.Float64frombits(r.bar.Load())
}

// Add stores a request if it failed or is among the slowest of its minute. ended is the Unix second
// in which it ended.
func (r *Requests) Add(ended int64, q *api.Request, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failed {
		r.fail(q)
	}
	minute := ended / 60
	s := &r.slow[minute%minutes]
	if s.minute != minute { // an earlier minute, or a later one if the clock was set back
		s.minute, s.requests = minute, s.requests[:0]
	}
	at, _ := slices.BinarySearchFunc(s.requests, q, func(a api.Request, b *api.Request) int {
		return cmp.Compare(a.Total, b.Total)
	})
	s.requests = slices.Insert(s.requests, at, *q)
	bar := 0.0
	if over := len(s.requests) - maxSlow; over >= 0 {
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
	f.ring[f.next%maxFailed] = *q
	f.next++
}

// List returns the stored requests at the Unix second now, the newest first.
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
		failed = append(failed, f.ring[:min(f.next, maxFailed)]...)
	}
	newest := func(a, b api.Request) int { return b.Began.Compare(a.Began) }
	slices.SortFunc(slow, newest)
	slices.SortFunc(failed, newest)
	return slow, failed
}
