package router

import (
	"context"
	"sync"
	"time"
)

// queue holds the names of services to reconcile. Each name is in it at most once, and only one
// worker has it at a time. A name that is added while a worker has it is queued again afterwards.
type queue struct {
	mu      sync.Mutex
	wake    chan struct{} // closed and renewed when something is added
	waiting []string
	state   map[string]place
	timers  map[string]*timer
}

type timer struct {
	*time.Timer
	due time.Time
}

type place int

const (
	queued place = iota + 1
	running
	runningAndQueued
)

func newQueue() *queue {
	return &queue{wake: make(chan struct{}), state: map[string]place{}, timers: map[string]*timer{}}
}

func (q *queue) add(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(name)
}

func (q *queue) addLocked(name string) {
	switch q.state[name] {
	case queued, runningAndQueued:
		return
	case running:
		q.state[name] = runningAndQueued
		return
	}
	q.state[name] = queued
	q.waiting = append(q.waiting, name)
	close(q.wake)
	q.wake = make(chan struct{})
}

// addAfter adds a name after d. If it is called several times, the earliest time counts.
func (q *queue) addAfter(name string, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	due := time.Now().Add(d)
	if t, ok := q.timers[name]; ok {
		if !due.Before(t.due) {
			return
		}
		t.Stop()
	}
	t := &timer{due: due}
	t.Timer = time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.timers[name] == t {
			delete(q.timers, name)
			q.addLocked(name)
		}
	})
	q.timers[name] = t
}

// next waits for a name and removes it from the queue. It returns false if ctx ends first. The
// caller must call done with the name.
func (q *queue) next(ctx context.Context) (string, bool) {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			name := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.state[name] = running
			q.mu.Unlock()
			return name, true
		}
		wake := q.wake
		q.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return "", false
		}
	}
}

func (q *queue) done(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.state[name] == runningAndQueued
	delete(q.state, name)
	if again {
		q.addLocked(name)
	}
}
