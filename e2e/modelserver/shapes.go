package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Other request formats of engines: OpenAI's responses and embeddings, and Anthropic's messages.
// The ones that generate produce the same words as a completion.

// asked is what such a request has in common with a completion.
type asked struct {
	request
	tokens int
}

// read decodes a request of another format; fill converts it.
func read[T any](w http.ResponseWriter, r *http.Request, fill func(T) asked) (asked, error) {
	var body T
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body); err != nil {
		return asked{}, fmt.Errorf("the body is no request: %w", err)
	}
	a := fill(body)
	if a.tokens < 1 || a.tokens > maxTokens {
		return a, fmt.Errorf("the most tokens are %d: want 1 to %d", a.tokens, maxTokens)
	}
	if len(a.Prompt) == 0 && len(a.Messages) == 0 {
		return a, errors.New("there is no prompt")
	}
	return a, nil
}

// generate serves a request of another format. sends is nil if the answer is not streamed; then
// whole returns it.
func (s *server) generate(w http.ResponseWriter, r *http.Request, state *state, a asked,
	sends func(*events) (each func(i int) error, end func(usage) error), whole func(usage) any) int {
	j := a.job(a.tokens)
	work, code := s.accept(w, r, state, j)
	if code != 0 {
		return code
	}
	defer work.end()
	each, end := func(int) error { return nil }, func(u usage) error { reply(w, http.StatusOK, whole(u)); return nil }
	if sends != nil {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		each, end = sends(&events{w: w, prompt: func() usage { return s.usage(j, 0, work) }})
	}
	err := work.run(r.Context(), func(i int) error { s.metrics.tokens.Inc(); return each(i) })
	if err == nil {
		err = end(s.usage(j, j.output, work))
	}
	if err != nil {
		return clientGone
	}
	return http.StatusOK
}

// events writes server-sent events that have a type.
type events struct {
	w      http.ResponseWriter
	prompt func() usage // known after the first token
	n      int
}

func (e *events) send(kind string, members map[string]any) error {
	members["type"] = kind
	members["sequence_number"] = e.n
	e.n++
	body, err := json.Marshal(members)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", kind, body); err != nil {
		return err
	}
	return http.NewResponseController(e.w).Flush()
}

// all sends events until one fails.
func (e *events) all(events ...func() error) error {
	for _, send := range events {
		if err := send(); err != nil {
			return err
		}
	}
	return nil
}

func (e *events) later(kind string, members map[string]any) func() error {
	return func() error { return e.send(kind, members) }
}

func cachedOf(u usage) int {
	if u.Details == nil {
		return 0
	}
	return u.Details.Cached
}
