package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// errBusy means that every slot is taken and the queue is full.
var errBusy = errors.New("all slots are busy and the queue is full")

// slots serves requests independently of each other: each takes prefill time, then one interval for
// each token.
type slots struct {
	taken   chan struct{}
	queue   int64
	waiting atomic.Int64
	// prompt and token are the times for one prompt token and one generated token in one slot.
	prompt, token time.Duration
}

// newSlots computes the times of the slots. The options' rate and prefill are tokens per second per
// slot on a whole H100; speed is the speed of this hardware relative to it.
func newSlots(o options, speed float64) *slots {
	return &slots{
		taken:  make(chan struct{}, o.slots),
		queue:  int64(o.queue),
		prompt: time.Duration(float64(time.Second) / (o.prefill * speed)),
		token:  time.Duration(float64(time.Second) / (o.rate * speed)),
	}
}

// take waits for a slot and returns a function that releases it. It fails with errBusy if the queue
// is full, and with ctx's error if the client leaves.
func (e *slots) take(ctx context.Context) (release func(), err error) {
	free := func() { <-e.taken }
	select {
	case e.taken <- struct{}{}:
		return free, nil
	default:
	}
	defer e.waiting.Add(-1)
	if e.waiting.Add(1) > e.queue {
		return nil, errBusy
	}
	select {
	case e.taken <- struct{}{}:
		return free, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// generate calls each after every token. Token k is due at a fixed time after the start, so that
// slow callers do not add up to a slower model.
func (e *slots) generate(ctx context.Context, promptTokens, tokens int, each func(i int) error) error {
	due := time.Now().Add(time.Duration(promptTokens) * e.prompt)
	for i := range tokens {
		due = due.Add(e.token)
		if err := wait(ctx, time.Until(due)); err != nil {
			return err
		}
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

// accept waits for a slot for a request.
func (e *slots) accept(ctx context.Context, j job) (*work, error) {
	release, err := e.take(ctx)
	if err != nil {
		return nil, err
	}
	run := func(ctx context.Context, each func(i int) error) error {
		return e.generate(ctx, j.prompt, j.output, each)
	}
	return &work{run: run, end: release, cached: func() int { return 0 }}, nil
}

func (e *slots) occupancy() occupancy {
	return occupancy{most: cap(e.taken), running: len(e.taken), waiting: int(e.waiting.Load())}
}
