package cluster

import (
	"context"
	"fmt"
	"time"
)

// poll is how often a condition is looked at that cannot be waited for.
const poll = 100 * time.Millisecond

// Await looks at a condition until it holds. The condition returns "" when it
// does and otherwise what is still missing, which is what the error says when
// ctx ends first.
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

// AwaitWithin is Await with a limit of its own.
func AwaitWithin(ctx context.Context, limit time.Duration, what string, missing func() string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Await(ctx, what, missing)
}

// why turns an error into what is still missing.
func why(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
