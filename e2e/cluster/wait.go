package cluster

import (
	"context"
	"fmt"
	"time"
)

// poll is the interval at which Await polls its condition.
const poll = 100 * time.Millisecond

// Await polls a condition until it holds. The condition returns "" when it holds and otherwise what
// is missing. If ctx ends first, Await returns an error that says what was missing.
func Await(ctx context.Context, what string, missing func() string) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	start := time.Now()
	for {
		why := missing()
		if why == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != ctx.Err() {
				return fmt.Errorf("%s: %w", what, cause)
			}
			return fmt.Errorf("%s: after %s %s", what, time.Since(start).Round(time.Second), why)
		case <-ticker.C:
		}
	}
}

// AwaitWithin is Await with a timeout.
func AwaitWithin(ctx context.Context, limit time.Duration, what string, missing func() string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Await(ctx, what, missing)
}

// why returns the text of an error, or "", as Await's condition does.
func why(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
