package engine

import (
	"context"
	"net/http"
	"strconv"
)

// vllmSleep uses vLLM's sleep mode, which needs its development mode.
type vllmSleep struct{ *SleepMode }

func (b vllmSleep) asleep(ctx context.Context, address string) (bool, error) {
	var state struct {
		Sleeping *bool `json:"is_sleeping"`
	}
	status, err := b.ask(ctx, http.MethodGet, address, "/is_sleeping", nil, &state)
	switch {
	case absent(status), err == nil && state.Sleeping == nil:
		return false, ErrNoSleep
	case err != nil:
		return false, err
	}
	return *state.Sleeping, nil
}

func (b vllmSleep) sleep(ctx context.Context, address string) error {
	_, err := b.ask(ctx, http.MethodPost, address, "/sleep?level="+strconv.Itoa(b.Level), nil, nil)
	return err
}

func (b vllmSleep) wake(ctx context.Context, address, replica string) error {
	if _, err := b.ask(ctx, http.MethodPost, address, "/wake_up", nil, nil); err != nil {
		return err
	}
	if b.Level == 2 { // the weights are gone
		if _, err := b.ask(ctx, http.MethodPost, address,
			"/collective_rpc", map[string]string{"method": "reload_weights"}, nil); err != nil {
			return err
		}
		if _, err := b.ask(ctx, http.MethodPost, address, "/reset_prefix_cache", nil, nil); err != nil {
			return err
		}
	}
	if err := b.until(ctx, replica, false); err != nil {
		return err
	}
	return b.probe(ctx, replica)
}

// absent reports whether a status means that a server does not have the endpoint.
func absent(status int) bool {
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}
