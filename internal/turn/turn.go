// Package turn limits how many holders in a cluster do the same expensive thing at the same time.
// Each turn is a key in Consul KV that one session locks.
package turn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// Turns are the turns below one prefix of Consul KV.
type Turns struct {
	Client *api.Client
	// Prefix is the prefix of the keys, without a trailing slash.
	Prefix string
	// Max is the largest number of turns held at once.
	Max int
	// Lapse is the longest time that a turn is held without being released. Consul allows 10s to
	// 24h, and may take up to twice as long. If the holder's node fails, the turn ends at once.
	Lapse time.Duration
}

// ErrUnheld means that the holder has no turn to release.
var ErrUnheld = errors.New("holds no turn")

// queryWait is the longest wait of one blocking query. It is short because the deletion of a key does
// not always end the wait.
const queryWait = 5 * time.Second

// Take waits until the holder has a turn. It returns at once if the holder already has one.
func (t Turns) Take(ctx context.Context, holder string) error {
	if _, err := t.held(ctx, holder); err == nil || !errors.Is(err, ErrUnheld) {
		return err
	}
	write := (&api.WriteOptions{}).WithContext(ctx)
	session, _, err := t.Client.Session().Create(&api.SessionEntry{
		Name: "aliquot-turn-" + holder, TTL: t.Lapse.String(), Behavior: api.SessionBehaviorDelete,
		LockDelay: time.Millisecond, // 0 would mean 15s
	}, write)
	if err != nil {
		return fmt.Errorf("cannot create a session in Consul: %w", err)
	}
	if err := t.wait(ctx, holder, session); err != nil {
		// ctx may have ended, so destroy the session without it.
		_, _ = t.Client.Session().Destroy(session, nil)
		return err
	}
	return nil
}

func (t Turns) wait(ctx context.Context, holder, session string) error {
	write := (&api.WriteOptions{}).WithContext(ctx)
	index := uint64(0)
	for {
		pairs, meta, err := t.Client.KV().List(t.Prefix+"/", (&api.QueryOptions{WaitIndex: index, WaitTime: queryWait}).
			WithContext(ctx))
		if err != nil {
			return fmt.Errorf("cannot list the turns in Consul: %w", err)
		}
		index = meta.LastIndex
		for _, key := range t.free(pairs) {
			got, _, err := t.Client.KV().Acquire(&api.KVPair{Key: key, Value: []byte(holder), Session: session}, write)
			if err != nil {
				return fmt.Errorf("cannot take a turn in Consul: %w", err)
			}
			if got {
				return nil
			}
		}
		// Renew, so that the wait does not shorten the turn.
		entry, _, err := t.Client.Session().Renew(session, write)
		if err == nil && entry == nil {
			err = errors.New("it has ended")
		}
		if err != nil {
			return fmt.Errorf("cannot renew the session in Consul: %w", err)
		}
	}
}

// free returns the keys of free turns. Another holder may take one of them first.
func (t Turns) free(pairs api.KVPairs) (keys []string) {
	taken := map[string]bool{}
	for _, p := range pairs {
		taken[p.Key] = p.Session != ""
	}
	for n := range t.Max {
		if key := fmt.Sprintf("%s/%d", t.Prefix, n); !taken[key] {
			keys = append(keys, key)
		}
	}
	return keys
}

// held returns the session of the holder's turn, or ErrUnheld.
func (t Turns) held(ctx context.Context, holder string) (session string, err error) {
	pairs, _, err := t.Client.KV().List(t.Prefix+"/", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("cannot list the turns in Consul: %w", err)
	}
	for _, p := range pairs {
		if p.Session != "" && string(p.Value) == holder {
			return p.Session, nil
		}
	}
	return "", fmt.Errorf("%s %w below %s", holder, ErrUnheld, t.Prefix)
}

// Release releases the holder's turn. It returns ErrUnheld if the holder has none.
func (t Turns) Release(ctx context.Context, holder string) error {
	session, err := t.held(ctx, holder)
	if err != nil {
		return err
	}
	if _, err := t.Client.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("cannot end the session in Consul: %w", err)
	}
	return nil
}
