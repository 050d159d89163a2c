package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// complete serves one completion, plain or streamed.
func (s *server) complete(w http.ResponseWriter, r *http.Request, chat bool) {
	start := time.Now()
	code := s.serve(w, r, chat)
	s.metrics.requests.WithLabelValues(fmt.Sprint(code)).Inc()
	s.metrics.seconds.Observe(time.Since(start).Seconds())
}

// clientGone is the code under which a request is counted whose client left.
const clientGone = 499

// serve answers and returns the HTTP status under which the request counts.
func (s *server) serve(w http.ResponseWriter, r *http.Request, chat bool) int {
	state := s.state.Load()
	if reason := state.unready(); reason != "" {
		refuse(w, http.StatusServiceUnavailable, "server_error", errors.New(reason))
		return http.StatusServiceUnavailable
	}
	req, tokens, err := decode(w, r, chat)
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", err)
		return http.StatusBadRequest
	}
	release, err := state.engine.take(r.Context())
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "server_error", err)
		return http.StatusServiceUnavailable
	case err != nil:
		return clientGone
	}
	defer release()

	out := writer{w: w, chat: chat, model: s.model, fingerprint: state.hw.Fingerprint(), id: s.nextID(chat)}
	total := usage{PromptTokens: req.promptTokens(), CompletionTokens: tokens}
	total.TotalTokens = total.PromptTokens + tokens
	each := func(i int) error { s.metrics.tokens.Inc(); return nil }
	if req.Stream {
		out.begin()
		each = func(i int) error { s.metrics.tokens.Inc(); return out.chunk(i, i == tokens-1) }
	}
	if err := state.engine.generate(r.Context(), total.PromptTokens, tokens, each); err != nil {
		return clientGone
	}
	if req.Stream {
		err = out.end(req.StreamOptions.IncludeUsage, total)
	} else {
		err = out.whole(tokens, total)
	}
	if err != nil {
		return clientGone
	}
	return http.StatusOK
}

var ids atomic.Uint64

func (s *server) nextID(chat bool) string {
	prefix := "cmpl-"
	if chat {
		prefix = "chatcmpl-"
	}
	return fmt.Sprintf("%s%d", prefix, ids.Add(1))
}

// writer puts an answer into the form that the client asked for.
type writer struct {
	w                      http.ResponseWriter
	chat                   bool
	model, fingerprint, id string
}

func (o writer) answer(object string, c ...choice) answer {
	return answer{ID: o.id, Object: object, Created: time.Now().Unix(), Model: o.model, Fingerprint: o.fingerprint, Choices: c}
}

func (o writer) begin() {
	o.w.Header().Set("Content-Type", "text/event-stream")
	o.w.Header().Set("Cache-Control", "no-cache")
	o.w.WriteHeader(http.StatusOK)
}

// chunk writes token i as one server-sent event.
func (o writer) chunk(i int, last bool) error {
	content := word(i)
	c, object := choice{Text: &content}, "text_completion"
	if o.chat {
		c, object = choice{Delta: &spoken{Content: content}}, "chat.completion.chunk"
		if i == 0 {
			c.Delta.Role = "assistant"
		}
	}
	if last {
		c.FinishReason = finished()
	}
	return o.event(o.answer(object, c))
}

// end closes a stream.
func (o writer) end(withUsage bool, total usage) error {
	if withUsage {
		object := "text_completion"
		if o.chat {
			object = "chat.completion.chunk"
		}
		a := o.answer(object)
		a.Choices, a.Usage = []choice{}, &total
		if err := o.event(a); err != nil {
			return err
		}
	}
	_, err := fmt.Fprint(o.w, "data: [DONE]\n\n")
	return err
}

func (o writer) event(a answer) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.w, "data: %s\n\n", body); err != nil {
		return err
	}
	return http.NewResponseController(o.w).Flush()
}

// whole writes a plain answer.
func (o writer) whole(tokens int, total usage) error {
	content := text(tokens)
	c, object := choice{Text: &content, FinishReason: finished()}, "text_completion"
	if o.chat {
		c, object = choice{Message: &spoken{Role: "assistant", Content: content}, FinishReason: finished()}, "chat.completion"
	}
	a := o.answer(object, c)
	a.Usage = &total
	o.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(o.w).Encode(a)
}

// finished is the finish_reason of every answer: max_tokens was reached.
func finished() *string {
	reason := "length"
	return &reason
}
