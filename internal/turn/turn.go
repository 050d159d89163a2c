// Package turn bounds how many holders in a cluster do the same heavy thing at once.
// There are as many keys in Consul KV as turns, each locked by one session.
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
	// Prefix is that of the keys, without a slash at the end.
	Prefix string
	// Most is how many hold a turn at once.
	Most int
	// Lapse is how long a turn is held without being given back, at most: Consul allows
	// 10s to 24h and may take up to twice as long. A holder whose node fails loses it
	// at once.
	Lapse time.Duration
}

// ErrUnheld is the error of a turn that was given back without being held.
var ErrUnheld = errors.New("holds no turn")

// look is how long one question to Consul waits for a change. It is short, because a
// key that was deleted does not always end the wait.
const look = 5 * time.Second

// Take waits until the holder has a turn. A holder that has one keeps it.
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
		return fmt.Errorf("session in Consul: %w", err)
	}
	if err := t.wait(ctx, holder, session); err != nil {
		// The caller may be ending, and its session must not keep the place.
		_, _ = t.Client.Session().Destroy(session, nil)
		return err
	}
	return nil
}

func (t Turns) wait(ctx context.Context, holder, session string) error {
	write := (&api.WriteOptions{}).WithContext(ctx)
	index := uint64(0)
	for {
		pairs, meta, err := t.Client.KV().List(t.Prefix+"/", (&api.QueryOptions{WaitIndex: index, WaitTime: look}).
			WithContext(ctx))
		if err != nil {
			return fmt.Errorf("turns in Consul: %w", err)
		}
		index = meta.LastIndex
		for _, key := range t.free(pairs) {
			got, _, err := t.Client.KV().Acquire(&api.KVPair{Key: key, Value: []byte(holder), Session: session}, write)
			if err != nil {
				return fmt.Errorf("turn in Consul: %w", err)
			}
			if got {
				return nil
			}
		}
		// The time of the wait does not count against that of the turn.
		if entry, _, err := t.Client.Session().Renew(session, write); err != nil || entry == nil {
			return fmt.Errorf("the session in Consul has ended: %w", err)
		}
	}
}

// free lists the keys that nobody holds. Somebody else may be faster.
func (t Turns) free(pairs api.KVPairs) (keys []string) {
	taken := map[string]bool{}
	for _, p := range pairs {
		taken[p.Key] = p.Session != ""
	}
	for n := range t.Most {
		if key := fmt.Sprintf("%s/%d", t.Prefix, n); !taken[key] {
			keys = append(keys, key)
		}
	}
	return keys
}

// held returns the session by which the holder has a turn.
func (t Turns) held(ctx context.Context, holder string) (session string, err error) {
	pairs, _, err := t.Client.KV().List(t.Prefix+"/", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("turns in Consul: %w", err)
	}
	for _, p := range pairs {
		if p.Session != "" && string(p.Value) == holder {
			return p.Session, nil
		}
	}
	return "", fmt.Errorf("%s %w below %s", holder, ErrUnheld, t.Prefix)
}

// Release gives the holder's turn back; ErrUnheld where it has none.
func (t Turns) Release(ctx context.Context, holder string) error {
	session, err := t.held(ctx, holder)
	if err != nil {
		return err
	}
	if _, err := t.Client.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("session in Consul: %w", err)
	}
	return nil
}
