package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// responsesRequest is the relevant part of a request to OpenAI's responses API.
type responsesRequest struct {
	Input        json.RawMessage `json:"input"`
	Instructions json.RawMessage `json:"instructions"`
	MaxTokens    *int            `json:"max_output_tokens"`
	Stream       bool            `json:"stream"`
}

// respond serves OpenAI's responses API.
func (s *server) respond(w http.ResponseWriter, r *http.Request) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	streams := false
	a, err := read(w, r, func(b responsesRequest) asked {
		streams = b.Stream
		tokens := defaultTokens
		if b.MaxTokens != nil {
			tokens = *b.MaxTokens
		}
		return asked{request{Prompt: append(b.Instructions, b.Input...)}, tokens}
	})
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", err)
		return http.StatusBadRequest
	}
	p := responses{id: fmt.Sprintf("resp_%d", ids.Add(1)), model: s.model, created: time.Now().Unix(),
		text: text(a.tokens)}
	if !streams {
		return s.generate(w, r, state, a, nil, p.whole)
	}
	return s.generate(w, r, state, a, p.stream, p.whole)
}

// responses converts one answer to the formats of OpenAI's responses API.
type responses struct {
	id, model string
	created   int64
	text      string // the whole text
}

func (p responses) part(text string) map[string]any {
	return map[string]any{"type": "output_text", "text": text, "annotations": []any{}}
}

func (p responses) item(status string, content ...any) map[string]any {
	return map[string]any{"id": "item_" + p.id, "type": "message", "role": "assistant", "status": status,
		"content": append([]any{}, content...)}
}

func (p responses) object(status string, output []any, used any) map[string]any {
	return map[string]any{
		"id": p.id, "object": "response", "created_at": p.created, "status": status, "model": p.model, "output": output,
		"usage": used, "error": nil, "incomplete_details": nil, "tools": []any{}, "parallel_tool_calls": true,
	}
}

func (p responses) whole(u usage) any {
	return p.object("completed", []any{p.item("completed", p.part(p.text))}, map[string]any{
		"input_tokens": u.PromptTokens, "input_tokens_details": map[string]int{"cached_tokens": cachedOf(u)},
		"output_tokens": u.CompletionTokens, "output_tokens_details": map[string]int{"reasoning_tokens": 0},
		"total_tokens": u.TotalTokens,
	})
}

func (p responses) stream(e *events) (each func(int) error, end func(usage) error) {
	place := func(m map[string]any) map[string]any {
		m["item_id"], m["output_index"], m["content_index"] = "item_"+p.id, 0, 0
		return m
	}
	each = func(i int) error {
		if i == 0 {
			err := e.all(
				e.later("response.created", map[string]any{"response": p.object("in_progress", []any{}, nil)}),
				e.later("response.output_item.added", map[string]any{"output_index": 0, "item": p.item("in_progress")}),
				e.later("response.content_part.added", place(map[string]any{"part": p.part("")})))
			if err != nil {
				return err
			}
		}
		return e.send("response.output_text.delta", place(map[string]any{"delta": word(i), "logprobs": []any{}}))
	}
	return each, func(u usage) error {
		return e.all(
			e.later("response.output_text.done", place(map[string]any{"text": p.text, "logprobs": []any{}})),
			e.later("response.content_part.done", place(map[string]any{"part": p.part(p.text)})),
			e.later("response.output_item.done", map[string]any{"output_index": 0,
				"item": p.item("completed", p.part(p.text))}),
			e.later("response.completed", map[string]any{"response": p.whole(u)}))
	}
}
