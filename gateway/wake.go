package gateway

import (
	"context"
	"log/slog"
	"time"

	"aliquot.example/gateway/config"
)

// Scaler starts task groups.
type Scaler interface {
	// Count returns the desired count of a task group, and the number of placed allocations.
	Count(ctx context.Context, job, group string) (desired, placed int, err error)
	// Scale sets the desired count of a group if it is 0. It returns an error if the job has changed
	// meanwhile, so that it never overwrites a larger count.
	Scale(ctx context.Context, job, group string, count int, reason string) error
}

// waker starts the first replica of a service with waiting requests. It sends one request to Nomad
// at a time, at least Interval apart.
type waker struct {
	service string
	config  *config.Wake
	scaler  Scaler
	metrics *metrics
	log     *slog.Logger
	asked   chan struct{}
	// unplaced has the time since which a group is known to be desired without a node.
	unplaced map[config.Target]time.Time
}

func newWaker(service string, c *config.Wake, scaler Scaler, m *metrics, log *slog.Logger) *waker {
	return &waker{service: service, config: c, scaler: scaler, metrics: m, log: log, asked: make(chan struct{}, 1),
		unplaced: map[config.Target]time.Time{}}
}

// ask signals that a request waits for a first replica. It never blocks.
func (w *waker) ask() {
	select {
	case w.asked <- struct{}{}:
	default: // already signalled
	}
}

// starvation is the part of a queue that the waker needs.
type starvation interface {
	Starving() bool
	StarvesFor(class string) bool
}

// run wakes the service after each ask, while requests wait that no replica can serve, until ctx
// ends.
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

// wake scales the cheapest useful group from zero to one, unless a useful group is already
// starting. If Nomad refuses to scale a group, for example during a deployment, or finds no node
// for it in time, wake tries the next one. It returns false if no group is starting.
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
		case !w.unplacedTooLong(t, placed):
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
		w.log.Warn("cannot scale from zero; trying the next group", "service", w.service, "job", t.Job,
			"group", t.Group, "error", err)
	}
	return false
}

// unplacedTooLong reports whether a desired group has been without a node for too long.
func (w *waker) unplacedTooLong(t config.Target, placed int) bool {
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
	w.log.Warn("Nomad finds no node for a group; trying the next one", "service", w.service, "job", t.Job,
		"group", t.Group)
	return true
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
