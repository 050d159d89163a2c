package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Bed puts engines to sleep and wakes them: their model leaves the GPU and comes back
// from the host's memory in seconds.
type Bed struct {
	// Client asks; its transport is that of the service's requests.
	Client http.RoundTripper
	Scheme string
	// Port of the engine's endpoints, 0 for that of the replica.
	Port int
	// Level is vLLM's: 1 keeps the weights in the host's memory.
	Level int
}

// ErrNoSleep says that an engine has no sleep mode, or that it is not enabled.
var ErrNoSleep = errors.New("the engine has no sleep mode, or it is not enabled")

// asleep is how long one question may take; orders take as long as their context.
const asleep = 5 * time.Second

// Asleep asks whether an engine sleeps; ErrNoSleep where it cannot.
func (b *Bed) Asleep(ctx context.Context, replica string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, asleep)
	defer cancel()
	var told struct {
		Sleeping *bool `json:"is_sleeping"`
	}
	status, err := b.ask(ctx, http.MethodGet, b.address(replica), "/is_sleeping", nil, &told)
	switch {
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, err == nil && told.Sleeping == nil:
		return false, ErrNoSleep
	case err != nil:
		return false, err
	}
	return *told.Sleeping, nil
}

// ErrBusy says that an engine works on requests, and would lose them or die if it were
// put to sleep.
var ErrBusy = errors.New("the engine works on requests")

// Sleep puts an engine to sleep that has nothing to do, and returns when it says that
// it sleeps. Requests that the caller does not know of are looked for in its metrics.
func (b *Bed) Sleep(ctx context.Context, replica string) error {
	switch state, err := b.load(ctx, replica); {
	case err != nil:
		return fmt.Errorf("%w, or may: its metrics cannot be read: %w", ErrBusy, err)
	case max(state.Running, 0)+max(state.Waiting, 0) > 0:
		return ErrBusy
	}
	if _, err := b.ask(ctx, http.MethodPost, b.address(replica), "/sleep?level="+strconv.Itoa(b.Level), nil, nil); err != nil {
		return err
	}
	return b.until(ctx, replica, true)
}

// Wake wakes an engine, and returns when it has answered a request of one token: an
// engine that says that it is awake has been seen to die by the first request.
func (b *Bed) Wake(ctx context.Context, replica string) error {
	if _, err := b.ask(ctx, http.MethodPost, b.address(replica), "/wake_up", nil, nil); err != nil {
		return err
	}
	if b.Level == 2 { // the weights are gone
		if _, err := b.ask(ctx, http.MethodPost, b.address(replica), "/collective_rpc", map[string]string{"method": "reload_weights"}, nil); err != nil {
			return err
		}
		if _, err := b.ask(ctx, http.MethodPost, b.address(replica), "/reset_prefix_cache", nil, nil); err != nil {
			return err
		}
	}
	if err := b.until(ctx, replica, false); err != nil {
		return err
	}
	return b.probe(ctx, replica)
}

// again is the time between two questions while something is waited for.
const again = 50 * time.Millisecond

func (b *Bed) until(ctx context.Context, replica string, sleeps bool) error {
	for {
		is, err := b.Asleep(ctx, replica)
		if err != nil {
			return err
		}
		if is == sleeps {
			return nil
		}
		if !sleep(ctx, again) {
			return fmt.Errorf("is_sleeping stays %t: %w", is, context.Cause(ctx))
		}
	}
}

func (b *Bed) probe(ctx context.Context, replica string) error {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	status, err := b.ask(ctx, http.MethodGet, replica, "/v1/models", nil, &list)
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		return nil // it wants a key, and its word must do
	}
	if err != nil {
		return err
	}
	if len(list.Data) == 0 {
		return errors.New("/v1/models lists no model")
	}
	_, err = b.ask(ctx, http.MethodPost, replica, "/v1/completions", map[string]any{"model": list.Data[0].ID, "prompt": "a", "max_tokens": 1}, nil)
	return err
}

func (b *Bed) load(ctx context.Context, replica string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, asleep)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Scheme+"://"+replica+"/metrics", nil)
	if err != nil {
		return State{}, err
	}
	res, err := b.Client.RoundTrip(r)
	if err != nil {
		return State{}, err
	}
	defer res.Body.Close()
	return Parse(io.LimitReader(res.Body, mostBytes))
}

func (b *Bed) address(replica string) string {
	host, _, err := net.SplitHostPort(replica)
	if b.Port == 0 || err != nil {
		return replica
	}
	return net.JoinHostPort(host, strconv.Itoa(b.Port))
}

// ask sends a request and reads its answer as JSON where into is not nil. The status is
// 0 when there was no answer.
func (b *Bed) ask(ctx context.Context, method, address, path string, body, into any) (status int, err error) {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		text = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, b.Scheme+"://"+address+path, text)
	if err != nil {
		return 0, err
	}
	r.Header.Set("User-Agent", "aliquot-gateway")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := b.Client.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer := io.LimitReader(res.Body, mostBytes)
	if res.StatusCode/100 != 2 {
		return res.StatusCode, fmt.Errorf("%s answers %s", path, res.Status)
	}
	if into != nil {
		if err := json.NewDecoder(answer).Decode(into); err != nil {
			return res.StatusCode, fmt.Errorf("%s: %w", path, err)
		}
	}
	_, err = io.Copy(io.Discard, answer)
	return res.StatusCode, err
}
