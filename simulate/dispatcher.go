package simulate

import (
	"slices"
	"time"
)

// dispatcher holds the waiting requests and decides which replica serves them.
type dispatcher interface {
	// put adds a replica that is ready. drop removes one; the requests that it has still end there.
	put(r *replica)
	drop(r *replica)
	arrive(i int, q Request, now time.Duration)
	// next returns the next request to send and its replica, or nil if none is to be sent now.
	next(now time.Duration) (i int, to *replica)
	// again returns when to call next even if nothing happens, 0 for never.
	again() time.Duration
	// progress reports the responses of one replica that batches, and ended one that has ended.
	progress(b *batch, now time.Duration)
	ended(c *call, now time.Duration)
}

func newDispatcher(cfg Config, trace []Request) dispatcher {
	switch {
	case cfg.Classes[0].Curve == nil:
		return &slots{classes: cfg.Classes}
	case cfg.LeastRequests:
		return &proxy{}
	}
	return newGateway(cfg, trace)
}

// line holds waiting requests and ready replicas, both the oldest first.
type line struct {
	replicas []*replica
	requests []int
}

func (l *line) put(r *replica) {
	at := slices.IndexFunc(l.replicas, func(o *replica) bool { return o.id > r.id })
	if at < 0 {
		at = len(l.replicas)
	}
	l.replicas = slices.Insert(l.replicas, at, r)
}

func (l *line) drop(r *replica) {
	l.replicas = slices.DeleteFunc(l.replicas, func(o *replica) bool { return o == r })
}

func (l *line) arrive(i int, _ Request, _ time.Duration) { l.requests = append(l.requests, i) }

func (l *line) pop() (i int) {
	i, l.requests = l.requests[0], l.requests[1:]
	return i
}

func (*line) again() time.Duration { return 0 }

func (*line) progress(*batch, time.Duration) {}

func (*line) ended(*call, time.Duration) {}

// slots gives the oldest waiting request to the fastest free slot. Among slots of equal speed it
// prefers the oldest replica, so that the newest become idle first.
type slots struct {
	line
	classes []Class
}

func (s *slots) next(time.Duration) (i int, to *replica) {
	for _, r := range s.replicas {
		class := s.classes[r.class]
		if r.busy < class.Slots && (to == nil || class.Speed > s.classes[to.class].Speed) {
			to = r
		}
	}
	if to == nil || len(s.requests) == 0 {
		return 0, nil
	}
	return s.pop(), to
}

// proxy sends each request at once to the replica with the fewest requests. Requests wait only while
// there is no replica.
type proxy struct{ line }

func (p *proxy) next(time.Duration) (i int, to *replica) {
	if len(p.requests) == 0 || len(p.replicas) == 0 {
		return 0, nil
	}
	return p.pop(), slices.MinFunc(p.replicas, func(a, b *replica) int { return a.busy - b.busy })
}
