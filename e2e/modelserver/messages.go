package main

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// messagesRequest is the relevant part of a request to Anthropic's messages API.
type messagesRequest struct {
	System    json.RawMessage `json:"system"`
	Messages  []message       `json:"messages"`
	MaxTokens int             `json:"max_tokens"`
	Stream    bool            `json:"stream"`
}

// message serves Anthropic's messages API.
func (s *server) message(w http.ResponseWriter, r *http.Request) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	streams := false
	a, err := read(w, r, func(b messagesRequest) asked {
		streams = b.Stream
		return asked{request{Prompt: b.System, Messages: b.Messages}, b.MaxTokens}
	})
	if err != nil {
		reply(w, http.StatusBadRequest,
			map[string]any{"type": "error", "error": map[string]string{"type": "invalid_request_error",
				"message": err.Error()}})
		return http.StatusBadRequest
	}
	m := messages{id: fmt.Sprintf("msg_%d", ids.Add(1)), model: s.model}
	whole := func(u usage) any { return m.object([]any{m.words(text(a.tokens))}, "max_tokens", u) }
	if !streams {
		return s.generate(w, r, state, a, nil, whole)
	}
	return s.generate(w, r, state, a, m.stream, whole)
}

// messages converts one answer to the formats of Anthropic's messages API.
type messages struct{ id, model string }

func (m messages) object(content []any, reason any, u usage) map[string]any {
	return map[string]any{
		"id": m.id, "type": "message", "role": "assistant", "model": m.model, "content": content,
		"stop_reason": reason, "stop_sequence": nil, "usage": m.used(u),
	}
}

func (messages) words(text string) map[string]any {
	return map[string]any{"type": "text", "text": text}
}

// used returns the usage. Cached tokens do not count as input tokens.
func (messages) used(u usage) map[string]int {
	return map[string]int{
		"input_tokens": u.PromptTokens - cachedOf(u), "cache_creation_input_tokens": 0,
		"cache_read_input_tokens": cachedOf(u),
		"output_tokens":           u.CompletionTokens,
	}
}

func (m messages) stream(e *events) (each func(int) error, end func(usage) error) {
	each = func(i int) error {
		if i == 0 {
			err := e.all(
				e.later("message_start", map[string]any{"message": m.object([]any{}, nil, e.prompt())}),
				e.later("content_block_start", map[string]any{"index": 0, "content_block": m.words("")}),
				e.later("ping", map[string]any{}))
			if err != nil {
				return err
			}
		}
		return e.send("content_block_delta", map[string]any{"index": 0,
			"delta": map[string]any{"type": "text_delta", "text": word(i)}})
	}
	return each, func(u usage) error {
		return e.all(
			e.later("content_block_stop", map[string]any{"index": 0}),
			e.later("message_delta",
				map[string]any{"delta": map[string]any{"stop_reason": "max_tokens", "stop_sequence": nil},
					"usage": m.used(u)}),
			e.later("message_stop", map[string]any{}))
	}
}
