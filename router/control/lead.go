package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/router/config"
)

// Election makes one of several routers the leader, by a lock in Consul's KV that
// a session holds.
type Election struct {
	Client *Client
	Config config.Leader
	Name   string // of this router, shown as the lock's value
	Log    *slog.Logger
}

// Run takes part until ctx ends, and calls lead for as long as this router is the
// leader. valid says whether that can be relied on right now: before it turns
// false, no other router can have become leader.
func (e *Election) Run(ctx context.Context, lead func(ctx context.Context, valid func() bool), trouble func(error)) {
	last := ""
	for ctx.Err() == nil {
		err := e.term(ctx, lead, trouble)
		if ctx.Err() != nil {
			return
		}
		// While Consul is away every term ends the same way; that is said once.
		if err != nil {
			trouble(err)
		}
		if err != nil && err.Error() != last {
			e.Log.Warn("leader election is interrupted", "error", err)
			last = err.Error()
		}
		pause(ctx, time.Second)
	}
}

// term is one session: waiting for the lock, leading, losing it.
func (e *Election) term(ctx context.Context, lead func(ctx context.Context, valid func() bool),
	trouble func(error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Consul counts a session's TTL from when it hears of it, so the time before the
	// request was sent is on the safe side.
	var until atomic.Int64
	start := time.Now()
	extend := func(sent time.Time) { until.Store(int64(sent.Sub(start) + e.Config.TTL)) }
	valid := func() bool { return ctx.Err() == nil && int64(time.Since(start)) < until.Load() }
	session, _, err := e.Client.api.Session().Create(&api.SessionEntry{
		Name: "aliquot router", TTL: e.Config.TTL.String(), LockDelay: e.Config.LockDelay,
		Behavior: api.SessionBehaviorRelease,
	}, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	extend(start)
	defer e.leave(session)
	go func() { cancel(e.renew(ctx, session, valid, extend)) }()
	index, err := e.acquire(ctx, session, trouble)
	if err != nil {
		return cause(ctx, err)
	}
	trouble(nil)
	go func() { cancel(e.watch(ctx, session, index)) }()
	e.Log.Info("leading", "key", e.Config.Key)
	lead(ctx, valid)
	e.Log.Info("no longer leading", "key", e.Config.Key)
	return cause(ctx, nil)
}

func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// renew keeps the session alive; it returns when that has failed for a TTL or the
// session is gone.
func (e *Election) renew(ctx context.Context, session string, valid func() bool, extend func(time.Time)) error {
	for {
		if !pause(ctx, e.Config.TTL/4) {
			return ctx.Err()
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, e.Config.TTL/2)
		entry, _, err := e.Client.api.Session().Renew(session, (&api.WriteOptions{}).WithContext(attempt))
		cancel()
		switch {
		case err == nil && entry == nil:
			return errors.New("the session is gone")
		case err == nil:
			extend(sent)
		case !valid():
			return fmt.Errorf("the session could not be renewed: %w", err)
		}
	}
}

// acquire waits for the lock and returns the index of the KV at which it was had.
func (e *Election) acquire(ctx context.Context, session string, trouble func(error)) (uint64, error) {
	kv := e.Client.api.KV()
	pair := &api.KVPair{Key: e.Config.Key, Value: []byte(e.Name), Session: session}
	index := uint64(0)
	for {
		held, meta, err := kv.Get(e.Config.Key, blocking(ctx, index, 30*time.Second))
		if err != nil {
			return 0, fmt.Errorf("leader lock: %w", err)
		}
		if index = meta.LastIndex; held != nil && held.Session != "" && held.Session != session {
			trouble(nil) // another leads, and this one would be next
			continue
		}
		ok, _, err := kv.Acquire(pair, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return 0, fmt.Errorf("leader lock: %w", err)
		}
		if ok {
			return index, nil
		}
		// The lock delay after a lost session refuses without a change to wait for.
		if index = 0; !pause(ctx, 200*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

// watch returns when the lock is no longer held by the session.
func (e *Election) watch(ctx context.Context, session string, index uint64) error {
	for {
		held, meta, err := e.Client.api.KV().Get(e.Config.Key, blocking(ctx, index, time.Minute))
		if err != nil {
			// Whether the session lives on is renew's to find out.
			if index = 0; !pause(ctx, time.Second) {
				return ctx.Err()
			}
			continue
		}
		if held == nil || held.Session != session {
			return errors.New("the leader lock was taken away")
		}
		index = meta.LastIndex
	}
}

// leave gives the lock back at once instead of after the TTL.
func (e *Election) leave(session string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	w := (&api.WriteOptions{}).WithContext(ctx)
	_, _, _ = e.Client.api.KV().Release(&api.KVPair{Key: e.Config.Key, Session: session}, w)
	_, _ = e.Client.api.Session().Destroy(session, w)
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
