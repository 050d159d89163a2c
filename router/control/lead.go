package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/router"
	"aliquot.example/router/config"
)

// Election elects one of several routers as leader, by a session's lock in Consul KV.
type Election struct {
	Client *Client
	Config config.Leader
	Name   string // name of this router, the value of the lock
	Log    *slog.Logger
}

// Run takes part in the election until ctx ends. It calls lead when this router becomes the leader
// and ends lead's context when it no longer is. valid reports whether this router certainly is the
// leader now: while it returns true, no other router can have become leader.
func (e *Election) Run(ctx context.Context, lead func(ctx context.Context, valid func() bool), trouble func(error)) {
	last := ""
	for ctx.Err() == nil {
		err := e.term(ctx, lead, trouble)
		if ctx.Err() != nil {
			return
		}
		// While Consul is unreachable, every term ends with the same error: log it once.
		if err != nil {
			trouble(err)
		}
		if err != nil && err.Error() != last {
			e.Log.Warn("leader election interrupted; trying again", "error", err)
			last = err.Error()
		}
		router.Pause(ctx, time.Second)
	}
}

// term runs one session: it waits for the lock, leads and loses it.
func (e *Election) term(ctx context.Context, lead func(ctx context.Context, valid func() bool),
	trouble func(error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Consul's TTL starts when the request arrives, so counting from before the request is sent is
	// safe.
	var until atomic.Int64
	start := time.Now()
	extend := func(sent time.Time) { until.Store(int64(sent.Sub(start) + e.Config.TTL)) }
	valid := func() bool { return ctx.Err() == nil && int64(time.Since(start)) < until.Load() }
	session, _, err := e.Client.api.Session().Create(&api.SessionEntry{
		Name: "aliquot router", TTL: e.Config.TTL.String(), LockDelay: e.Config.LockDelay,
		Behavior: api.SessionBehaviorRelease,
	}, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot create a session: %w", err)
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

// renew keeps the session alive. It returns an error if renewal fails until the TTL has passed, or
// if the Consul session no longer exists.
func (e *Election) renew(ctx context.Context, session string, valid func() bool, extend func(time.Time)) error {
	for {
		if !router.Pause(ctx, e.Config.TTL/4) {
			return ctx.Err()
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, e.Config.TTL/2)
		entry, _, err := e.Client.api.Session().Renew(session, (&api.WriteOptions{}).WithContext(attempt))
		cancel()
		switch {
		case err == nil && entry == nil:
			return errors.New("the Consul session no longer exists")
		case err == nil:
			extend(sent)
		case !valid():
			return fmt.Errorf("cannot renew the session: %w", err)
		}
	}
}

// acquire waits for the lock and returns an index of the key from which to watch it.
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
			trouble(nil) // another router leads: this one takes part
			continue
		}
		ok, _, err := kv.Acquire(pair, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return 0, fmt.Errorf("leader lock: %w", err)
		}
		if ok {
			return index, nil
		}
		// During the lock delay after a lost session, Consul refuses the lock and the key does not
		// change, so poll.
		if index = 0; !router.Pause(ctx, 200*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

// watch returns when the session no longer holds the lock.
func (e *Election) watch(ctx context.Context, session string, index uint64) error {
	for {
		held, meta, err := e.Client.api.KV().Get(e.Config.Key, blocking(ctx, index, time.Minute))
		if err != nil {
			// renew finds out whether the session is still alive.
			if index = 0; !router.Pause(ctx, time.Second) {
				return ctx.Err()
			}
			continue
		}
		if held == nil || held.Session != session {
			return errors.New("lost the leader lock")
		}
		index = meta.LastIndex
	}
}

// leave releases the lock at once instead of after the TTL.
func (e *Election) leave(session string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	w := (&api.WriteOptions{}).WithContext(ctx)
	_, _, _ = e.Client.api.KV().Release(&api.KVPair{Key: e.Config.Key, Session: session}, w)
	_, _ = e.Client.api.Session().Destroy(session, w)
}
