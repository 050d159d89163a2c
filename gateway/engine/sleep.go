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

// SleepMode puts engines to sleep and wakes them. The model of a sleeping engine leaves the GPU, and
// comes back from the host's memory in seconds.
type SleepMode struct {
	// Client is the transport of the service's requests.
	Client http.RoundTripper
	Scheme string
	// Port is the port of the engine's endpoints, 0 for the replica's port.
	Port int
	// Level is vLLM's sleep level: 1 keeps the weights in the host's memory. SGLang has a flag
	// instead.
	Level int
}

// sleeper implements the sleep mode of one kind of engine. address is the engine's.
type sleeper interface {
	// asleep reports whether the engine sleeps. It returns ErrNoSleep if the engine does not have
	// this mode.
	asleep(ctx context.Context, address string) (bool, error)
	sleep(ctx context.Context, address string) error
	// wake wakes the engine, and returns once it has served a request at replica.
	wake(ctx context.Context, address, replica string) error
}

// of returns the sleep mode of a replica's engine, and whether it sleeps.
func (m *SleepMode) of(ctx context.Context, replica string) (how sleeper, sleeps bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, asleep)
	defer cancel()
	for _, how := range []sleeper{vllmSleep{m}, sglangSleep{m}} {
		if sleeps, err = how.asleep(ctx, m.address(replica)); !errors.Is(err, ErrNoSleep) {
			return how, sleeps, err
		}
	}
	return nil, false, ErrNoSleep
}

// ErrNoSleep means that an engine has no sleep mode, or that the mode is not enabled.
var ErrNoSleep = errors.New("the engine has no sleep mode, or it is not enabled")

// asleep is the timeout of a request for state. Sleep and Wake have the timeout of their context.
const asleep = 5 * time.Second

// Asleep reports whether an engine sleeps. It returns ErrNoSleep if the engine cannot.
func (m *SleepMode) Asleep(ctx context.Context, replica string) (bool, error) {
	_, sleeps, err := m.of(ctx, replica)
	return sleeps, err
}

// ErrBusy means that an engine has requests in progress. It would lose them or crash if it were put
// to sleep.
var ErrBusy = errors.New("the engine has requests in progress")

// Sleep puts an idle engine to sleep, and returns once the engine reports that it sleeps. It checks
// the engine's metrics for requests of other clients.
func (m *SleepMode) Sleep(ctx context.Context, replica string) error {
	switch state, err := m.load(ctx, replica); {
	case err != nil:
		return fmt.Errorf("%w, or its load is unknown: %w", ErrBusy, err)
	case max(state.Running, 0)+max(state.Waiting, 0) > 0:
		return ErrBusy
	}
	how, sleeps, err := m.of(ctx, replica)
	if err != nil || sleeps {
		return err
	}
	if err := how.sleep(ctx, m.address(replica)); err != nil {
		return err
	}
	return m.until(ctx, replica, true)
}

// Wake wakes an engine, and returns once it has answered a request for one token: engines have been
// seen to report that they are awake and then to crash at the first request.
func (m *SleepMode) Wake(ctx context.Context, replica string) error {
	how, _, err := m.of(ctx, replica)
	if err != nil {
		return err
	}
	return how.wake(ctx, m.address(replica), replica)
}

// pollInterval is the polling interval of until.
const pollInterval = 50 * time.Millisecond

func (m *SleepMode) until(ctx context.Context, replica string, sleeps bool) error {
	for {
		is, err := m.Asleep(ctx, replica)
		if err != nil {
			return err
		}
		if is == sleeps {
			return nil
		}
		if !sleep(ctx, pollInterval) {
			return fmt.Errorf("the engine still reports is_sleeping = %t: %w", is, context.Cause(ctx))
		}
	}
}

func (m *SleepMode) probe(ctx context.Context, replica string) error {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	status, err := m.ask(ctx, http.MethodGet, replica, "/v1/models", nil, &list)
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		return nil // the server needs a key that the gateway does not have, so rely on its report
	}
	if err != nil {
		return err
	}
	if len(list.Data) == 0 {
		return errors.New("/v1/models lists no model")
	}
	_, err = m.ask(ctx, http.MethodPost, replica, "/v1/completions", map[string]any{"model": list.Data[0].ID,
		"prompt": "a", "max_tokens": 1}, nil)
	return err
}

// load reads the number of requests in an engine from its metrics.
func (m *SleepMode) load(ctx context.Context, replica string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, asleep)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Scheme+"://"+replica+"/metrics", nil)
	if err != nil {
		return State{}, err
	}
	res, err := m.Client.RoundTrip(r)
	if err != nil {
		return State{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return State{}, fmt.Errorf("/metrics answers %s", res.Status)
	}
	state, err := Parse(&bounded{res.Body, maxBody + 1})
	if err == nil && state.Running < 0 {
		err = errors.New("/metrics does not have the number of running requests")
	}
	return state, err
}

func (m *SleepMode) address(replica string) string {
	host, _, err := net.SplitHostPort(replica)
	if m.Port == 0 || err != nil {
		return replica
	}
	return net.JoinHostPort(host, strconv.Itoa(m.Port))
}

// ask sends a request and decodes the JSON of its response, if into is not nil. The status is 0
// without a response.
func (m *SleepMode) ask(ctx context.Context, method, address, path string, body, into any) (status int, err error) {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		text = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, m.Scheme+"://"+address+path, text)
	if err != nil {
		return 0, err
	}
	r.Header.Set("User-Agent", "aliquot-gateway")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := m.Client.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer := io.LimitReader(res.Body, maxBody)
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
