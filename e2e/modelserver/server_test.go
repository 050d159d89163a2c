package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/e2e/modelserver/hardware"
)

func testOptions() options {
	return options{model: "m", slots: 2, queue: 1, rate: 100, prefill: 10000}
}

func ready(t *testing.T) *server {
	t.Helper()
	s := newServer(testOptions())
	s.load(t.Context(), &hardware.Hardware{Variant: "cpu"})
	// The pace is tested on the engine alone.
	e := newSlots(options{slots: 2, rate: 1e6, prefill: 1e9}, 1)
	s.state.Store(&state{hw: &hardware.Hardware{Variant: "cpu"}, backend: e})
	return s
}

func post(s *server, path, body string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	s.routes().ServeHTTP(answer, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
	return answer
}

func TestPaceFollowsSpeed(t *testing.T) {
	for _, test := range []struct {
		speed float64
		want  time.Duration
	}{{1, 10*time.Millisecond + time.Second}, {0.5, 20*time.Millisecond + 2*time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			e, start, tokens := newSlots(testOptions(), test.speed), time.Now(), 0
			if err := e.generate(context.Background(), 100, 100, func(int) error { tokens++; return nil }); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != test.want || tokens != 100 {
				t.Errorf("at speed %g: %d tokens in %s, want 100 in %s", test.speed, tokens, took, test.want)
			}
		})
	}
}

func TestSlotsAndQueueAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSlots(testOptions(), 1)
		free, _ := e.take(t.Context())
		if _, err := e.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error)
		go func() {
			_, err := e.take(t.Context())
			waited <- err
		}()
		synctest.Wait()
		if _, err := e.take(t.Context()); !errors.Is(err, errBusy) {
			t.Errorf("got %v with a full queue, want errBusy", err)
		}
		free()
		if err := <-waited; err != nil {
			t.Errorf("the waiting request got %v, want the free slot", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.take(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v for a client that left", err)
		}
	})
}

func TestPlainAnswers(t *testing.T) {
	s := ready(t)
	for path, body := range map[string]string{
		"/v1/completions":      `{"prompt": "12345678", "max_tokens": 3}`,
		"/v1/chat/completions": `{"messages": [{"role": "user", "content": "123456"}], "max_completion_tokens": 3}`,
	} {
		var got answer
		response := post(s, path, body)
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil || response.Code != http.StatusOK {
			t.Fatalf("%s: %d %v", path, response.Code, err)
		}
		if got.Usage == nil || got.Usage.CompletionTokens != 3 || got.Usage.PromptTokens < 2 || len(got.Choices) != 1 || *got.Choices[0].FinishReason != "length" {
			t.Errorf("%s: %+v", path, got)
		}
		content := got.Choices[0].Message
		if strings.Contains(path, "chat") != (content != nil) {
			t.Errorf("%s: choice %+v", path, got.Choices[0])
		}
	}
}

func TestStreamedAnswers(t *testing.T) {
	s := ready(t)
	for path, body := range map[string]string{
		"/v1/completions":      `{"prompt": "x", "max_tokens": 4, "stream": true, "stream_options": {"include_usage": true}}`,
		"/v1/chat/completions": `{"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "stream": true, "stream_options": {"include_usage": true}}`,
	} {
		response := post(s, path, body)
		var chunks []answer
		done := false
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			switch {
			case !ok:
			case data == "[DONE]":
				done = true
			default:
				var chunk answer
				if err := json.Unmarshal([]byte(data), &chunk); err != nil {
					t.Fatalf("%s: %q: %v", path, data, err)
				}
				chunks = append(chunks, chunk)
			}
		}
		if len(chunks) != 5 || !done || chunks[3].Choices[0].FinishReason == nil || chunks[4].Usage == nil || chunks[4].Usage.CompletionTokens != 4 {
			t.Errorf("%s: %d chunks, done %v: %+v", path, len(chunks), done, chunks)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := ready(t)
	for _, test := range []struct {
		path, body, want string
	}{
		{"/v1/completions", `{`, "not a completion request"},
		{"/v1/completions", `{"max_tokens": 3}`, "prompt is missing"},
		{"/v1/chat/completions", `{"prompt": "x"}`, "messages is empty"},
		{"/v1/completions", `{"prompt": "x", "max_tokens": 0}`, "max_tokens is 0: want 1 to"},
	} {
		response := post(s, test.path, test.body)
		if response.Code != http.StatusBadRequest || !strings.Contains(response.Body.String(), test.want) {
			t.Errorf("%s %s: %d %s, want 400 with %q", test.path, test.body, response.Code, response.Body, test.want)
		}
	}
}

func TestHealthFollowsLoadingAndDraining(t *testing.T) {
	s := newServer(testOptions())
	health := func() int {
		answer := httptest.NewRecorder()
		s.routes().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/health", nil))
		return answer.Code
	}
	if got := health(); got != http.StatusServiceUnavailable {
		t.Errorf("while loading /health answers %d", got)
	}
	s.load(t.Context(), &hardware.Hardware{Variant: "cpu"})
	if got := health(); got != http.StatusOK {
		t.Errorf("when ready /health answers %d", got)
	}
	s.drain()
	if got := health(); got != http.StatusServiceUnavailable {
		t.Errorf("while draining /health answers %d", got)
	}
	s.load(t.Context(), &hardware.Hardware{Variant: "nvidia"})
	if got := health(); got != http.StatusServiceUnavailable {
		t.Errorf("without the GPU of its image /health answers %d", got)
	}
}
