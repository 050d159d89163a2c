package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// endless is how many tokens a request asks for that never ends by itself.
const endless = 100_000

// load keeps n endless requests of a service in flight until it is stopped.
func (s *scaling) load(ctx context.Context, t *testing.T, service string, n int) (stop func()) {
	return s.work(ctx, t, service, n, endless)
}

// work keeps n requests in flight, one after the other. One that fails is sent again.
func (s *scaling) work(ctx context.Context, t *testing.T, service string, n, tokens int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			for ctx.Err() == nil {
				if s.request(ctx, t, service, tokens) {
					continue
				}
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	return func() { cancel(); wait.Wait() }
}

// request returns whether it was served.
func (s *scaling) request(ctx context.Context, t *testing.T, service string, tokens int) bool {
	body := fmt.Sprintf(`{"model":"m","prompt":"hello","max_tokens":%d,"stream":true}`, tokens)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.gateway+"/v1/completions", strings.NewReader(body))
	if err != nil {
		return false
	}
	r.Host = service
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusBadRequest {
		t.Errorf("a request is refused: %s", answer)
	}
	return err == nil && response.StatusCode == http.StatusOK
}
