package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// errBusy means that every slot is taken and the queue is full.
var errBusy = errors.New("all slots are busy and the queue is full")

// engine serves requests in slots: each takes prefill time, then one interval
// per token.
type engine struct {
	slots   chan struct{}
	queue   int64
	waiting atomic.Int64
	// prompt and token are the times of one prompt token and of one generated
	// token in one slot.
	prompt, token time.Duration
}

// newEngine paces an engine: rate and prefill are tokens per second per slot on
// a whole H100, speed is that of this hardware relative to one.
func newEngine(o options, speed float64) *engine {
	return &engine{
		slots:  make(chan struct{}, o.slots),
		queue:  int64(o.queue),
		prompt: time.Duration(float64(time.Second) / (o.prefill * speed)),
		token:  time.Duration(float64(time.Second) / (o.rate * speed)),
	}
}

// take waits for a slot and returns its release. It fails with errBusy when the
// queue is full and with the error of ctx when the caller goes away.
func (e *engine) take(ctx context.Context) (release func(), err error) {
	free := func() { <-e.slots }
	select {
	case e.slots <- struct{}{}:
		return free, nil
	default:
	}
	defer e.waiting.Add(-1)
	if e.waiting.Add(1) > e.queue {
		return nil, errBusy
	}
	select {
	case e.slots <- struct{}{}:
		return free, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// generate calls each after every token. Token k is due at a fixed time after
// the start, so that slow callers do not add up to a slow model.
func (e *engine) generate(ctx context.Context, promptTokens, tokens int, each func(i int) error) error {
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
