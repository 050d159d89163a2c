package gateway

import (
	"context"
	"log/slog"
	"time"

	"aliquot.example/gateway/config"
)

// Scaler starts task groups.
type Scaler interface {
	// Count returns how many instances of a task group are desired, and how many of
	// them have a node.
	Count(ctx context.Context, job, group string) (desired, placed int, err error)
	// Scale sets the desired count of a group that has none. It fails where somebody
	// else has changed the job meanwhile: a larger count is never undone.
	Scale(ctx context.Context, job, group string, count int, reason string) error
}

// waker asks for the first replica of a service that requests wait for. One
// request to Nomad is under way at a time, and they are at least Interval apart.
type waker struct {
	service string
	config  *config.Wake
	scaler  Scaler
	metrics *metrics
	log     *slog.Logger
	asked   chan struct{}
	// unplaced is since when a group is seen to be desired and without a node.
	unplaced map[config.Target]time.Time
}

func newWaker(service string, c *config.Wake, scaler Scaler, m *metrics, log *slog.Logger) *waker {
	return &waker{service: service, config: c, scaler: scaler, metrics: m, log: log, asked: make(chan struct{}, 1),
		unplaced: map[config.Target]time.Time{}}
}

// ask notes that a request waits for a first replica. It never blocks.
func (w *waker) ask() {
	select {
	case w.asked <- struct{}{}:
	default: // a note is there already
	}
}

// starvation is what the waker asks of a queue.
type starvation interface {
	Starving() bool
	StarvesFor(class string) bool
}

// run wakes the service when asked, for as long as requests wait that no replica
// could serve.
func (w *waker) run(ctx context.Context, queue starvation) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.asked:
		}
		clear(w.unplaced)
		for queue.Starving() && ctx.Err() == nil {
			interval := w.config.Interval
			if !w.wake(ctx, queue) {
				interval = min(interval, time.Second)
			}
			pause(ctx, interval)
		}
	}
}

// wake scales the cheapest group that would help from zero to one, unless such a
// group has been asked for already. A group that Nomad refuses to scale, for
// example during a deployment, or for which it finds no node in time, is passed over
// for the next. It returns false when no group is starting.
func (w *waker) wake(ctx context.Context, queue starvation) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var helpful []config.Target
	for _, t := range w.config.Targets {
		if t.Class != "" && !queue.StarvesFor(t.Class) {
			continue
		}
		desired, placed, err := w.scaler.Count(ctx, t.Job, t.Group)
		switch {
		case err != nil || desired == 0:
			helpful = append(helpful, t)
		case !w.stuck(t, placed):
			w.metrics.wakes.WithLabelValues(w.service, "starting").Inc()
			return true
		}
	}
	for _, t := range helpful {
		err := w.scaler.Scale(ctx, t.Job, t.Group, 1, "aliquot gateway: requests wait for service "+w.service)
		if err == nil {
			w.metrics.wakes.WithLabelValues(w.service, "scaled").Inc()
			w.log.Info("scaled from zero", "service", w.service, "job", t.Job, "group", t.Group)
			return true
		}
		w.metrics.wakes.WithLabelValues(w.service, "failed").Inc()
		w.log.Warn("could not scale from zero", "service", w.service, "job", t.Job, "group", t.Group, "error", err)
	}
	return false
}

// stuck reports whether a group that is desired has been without a node for too long.
func (w *waker) stuck(t config.Target, placed int) bool {
	if placed > 0 {
		delete(w.unplaced, t)
		return false
	}
	now := time.Now()
	since, seen := w.unplaced[t]
	if !seen {
		w.unplaced[t] = now
		return false
	}
	if now.Sub(since) < w.config.Place {
		return false
	}
	w.metrics.wakes.WithLabelValues(w.service, "unplaced").Inc()
	w.log.Warn("a group that was asked for finds no node; the next is tried", "service", w.service, "job", t.Job,
		"group", t.Group)
	return true
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
