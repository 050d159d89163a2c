package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// requestTimeout is how long a client waits for a complete answer.
const requestTimeout = 4 * time.Minute

// result is the outcome of a call. Times are relative to the start of the replay.
type result struct {
	call
	first, end time.Duration // of the first token, and of the end of the answer
	// class is the hardware class that answered, according to the answer.
	class string
	// problem is why the call was lost; "" if the answer was complete.
	problem string
}

// replay sends the workload through the gateway in an open loop: it sends a call when it is due,
// even if earlier calls are not answered.
type replay struct {
	gateway string // URL
	calls   []call
	client  *http.Client

	mu      sync.Mutex
	started time.Time
	sent    int
	results []result
}

func newReplay(gateway string, calls []call) *replay {
	return &replay{gateway: gateway, calls: calls,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}}}
}

// run sends all calls and returns when all have ended.
func (r *replay) run(ctx context.Context) {
	r.mu.Lock()
	r.started = time.Now()
	r.mu.Unlock()
	var wait sync.WaitGroup
	defer wait.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, c := range r.calls {
		timer.Reset(time.Until(r.started.Add(c.at)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		r.mu.Lock()
		r.sent++
		r.mu.Unlock()
		wait.Go(func() {
			res := r.send(ctx, c)
			r.mu.Lock()
			r.results = append(r.results, res)
			r.mu.Unlock()
		})
	}
}

// progress returns how many calls were sent, answered completely and lost so far.
func (r *replay) progress() (sent, answered, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range r.results {
		if res.problem != "" {
			lost++
		}
	}
	return r.sent, len(r.results) - lost, lost
}

// since returns the time since the start of the replay, or 0 before it.
func (r *replay) since() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started.IsZero() {
		return 0
	}
	return time.Since(r.started)
}

// ended returns all results so far.
func (r *replay) ended() []result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]result(nil), r.results...)
}

func (r *replay) send(ctx context.Context, c call) result {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res := result{call: c}
	err := r.exchange(ctx, c, &res)
	res.end = r.since()
	if err != nil {
		res.problem = err.Error()
	}
	return res
}

// exchange sends one call and reads the complete answer.
func (r *replay) exchange(ctx context.Context, c call, res *result) error {
	// The server counts four bytes of the prompt as one token; JSON quotes and the role add a few.
	prompt := strings.Repeat("part", c.input)
	body, err := json.Marshal(map[string]any{
		"model": c.service, "messages": []any{map[string]string{"role": "user", "content": prompt}},
		"max_tokens": c.output, "stream": c.stream,
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.gateway+"/v1/chat/completions",
		bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(tenantHeader, replayTenant)
	// The cost of the request in generated tokens, from which the gateway learns speeds.
	request.Header.Set("X-Request-Cost", strconv.FormatFloat(float64(c.input)*rate/prefill+float64(c.output),
		'f', 2, 64))
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	}
	if c.stream {
		return r.readStream(response.Body, res)
	}
	return r.readWhole(response.Body, res)
}

// answer is the part of an OpenAI answer, or of one of its chunks, that the demo checks.
type answer struct {
	Fingerprint string `json:"system_fingerprint"`
	Choices     []struct {
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

// seen records which hardware answered: the fingerprint is variant/class/slices.
func (a answer) seen(res *result) {
	if parts := strings.Split(a.Fingerprint, "/"); len(parts) == 3 {
		res.class = parts[1]
	}
}

// readStream reads server-sent events until [DONE], one for each token.
func (r *replay) readStream(body io.Reader, res *result) error {
	tokens, finished := 0, false
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
		case data == "[DONE]":
			if tokens != res.output || !finished {
				return fmt.Errorf("the stream ended after %d of %d tokens", tokens, res.output)
			}
			return nil
		default:
			var a answer
			if err := json.Unmarshal([]byte(data), &a); err != nil {
				return fmt.Errorf("event %q: %w", data, err)
			}
			if tokens == 0 {
				res.first = r.since()
				a.seen(res)
			}
			tokens++
			finished = len(a.Choices) == 1 && a.Choices[0].FinishReason != nil
		}
	}
	return errors.Join(fmt.Errorf("the stream broke off after %d of %d tokens", tokens, res.output), lines.Err())
}

func (r *replay) readWhole(body io.Reader, res *result) error {
	var a answer
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	res.first = r.since()
	a.seen(res)
	if a.Usage == nil || a.Usage.CompletionTokens != res.output {
		return fmt.Errorf("the answer does not have the %d tokens that were asked for", res.output)
	}
	return nil
}
