package turn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/e2e/consultest"
)

func turns(t *testing.T, most int) Turns {
	t.Helper()
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return Turns{Client: server.Client, Prefix: "aliquot/pull", Max: most, Lapse: time.Minute}
}

// However many come at once, no more than Max hold a turn, and all get one.
func TestNoMoreThanMaxAtOnce(t *testing.T) {
	const most, all = 2, 8
	turns := turns(t, most)
	var now, peak atomic.Int32
	var done sync.WaitGroup
	for i := range all {
		done.Go(func() {
			holder := fmt.Sprintf("alloc-%d", i)
			if err := turns.Take(t.Context(), holder); err != nil {
				t.Error(err)
				return
			}
			for n := now.Add(1); n > peak.Load(); {
				peak.Store(n)
			}
			now.Add(-1)
			if err := turns.Release(t.Context(), holder); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if peak.Load() > most {
		t.Errorf("%d held a turn at once, want at most %d", peak.Load(), most)
	}
}

// A task that starts again keeps the turn that it has, and one that gave it back, or
// never had it, has none.
func TestATurnIsTheHolders(t *testing.T) {
	turns := turns(t, 1)
	for range 2 {
		if err := turns.Take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := turns.Take(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second holder: %v", err)
	}
	sessions, _, err := turns.Client.Session().List(nil)
	if err != nil || len(sessions) != 1 {
		t.Errorf("%d sessions are left, %v", len(sessions), err)
	}
	if err := turns.Release(t.Context(), "b"); !errors.Is(err, ErrUnheld) {
		t.Errorf("what was not held: %v", err)
	}
	if err := turns.Release(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := turns.Take(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

// A holder that never gives its turn back loses it in the end.
func TestATurnLapses(t *testing.T) {
	turns := turns(t, 1)
	turns.Lapse = time.Second // the server's session_ttl_min allows it
	if err := turns.Take(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	turns.Lapse = time.Minute
	if err := turns.Take(t.Context(), "next"); err != nil {
		t.Fatal(err)
	}
}
