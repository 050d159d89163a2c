package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// Other shapes in which engines take requests: OpenAI's responses and embeddings, and
// Anthropic's messages. What generates has the same words as a completion.

// asked is what such a request has in common with a completion.
type asked struct {
	request
	tokens int
}

// read decodes a request of another shape; fill takes what it is from into.
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

// generate serves a request of another shape. sends is nil where the answer comes in one
// piece; whole writes that.
func (s *server) generate(w http.ResponseWriter, r *http.Request, state *state, a asked, sends func(*events) (each func(i int) error, end func(usage) error), whole func(usage) any) int {
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

// events writes events that have a type.
type events struct {
	w      http.ResponseWriter
	prompt func() usage // known when the first token has come
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

// message serves Anthropic's messages.
func (s *server) message(w http.ResponseWriter, r *http.Request) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	type body struct {
		System    json.RawMessage `json:"system"`
		Messages  []message       `json:"messages"`
		MaxTokens int             `json:"max_tokens"`
		Stream    bool            `json:"stream"`
	}
	streams := false
	a, err := read(w, r, func(b body) asked {
		streams = b.Stream
		return asked{request{Prompt: b.System, Messages: b.Messages}, b.MaxTokens}
	})
	if err != nil {
		reply(w, http.StatusBadRequest, map[string]any{"type": "error", "error": map[string]string{"type": "invalid_request_error", "message": err.Error()}})
		return http.StatusBadRequest
	}
	id := fmt.Sprintf("msg_%d", ids.Add(1))
	told := func(u usage) map[string]int {
		return map[string]int{
			"input_tokens": u.PromptTokens - cachedOf(u), "cache_creation_input_tokens": 0, "cache_read_input_tokens": cachedOf(u),
			"output_tokens": u.CompletionTokens,
		}
	}
	object := func(content []any, reason any, u usage) map[string]any {
		return map[string]any{
			"id": id, "type": "message", "role": "assistant", "model": s.model, "content": content,
			"stop_reason": reason, "stop_sequence": nil, "usage": told(u),
		}
	}
	words := func(text string) map[string]any { return map[string]any{"type": "text", "text": text} }
	whole := func(u usage) any { return object([]any{words(text(a.tokens))}, "max_tokens", u) }
	if !streams {
		return s.generate(w, r, state, a, nil, whole)
	}
	return s.generate(w, r, state, a, func(e *events) (func(int) error, func(usage) error) {
		begin := func() error {
			return e.all(
				e.later("message_start", map[string]any{"message": object([]any{}, nil, e.prompt())}),
				e.later("content_block_start", map[string]any{"index": 0, "content_block": words("")}),
				e.later("ping", map[string]any{}))
		}
		each := func(i int) error {
			if i == 0 {
				if err := begin(); err != nil {
					return err
				}
			}
			return e.send("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "text_delta", "text": word(i)}})
		}
		return each, func(u usage) error {
			return e.all(
				e.later("content_block_stop", map[string]any{"index": 0}),
				e.later("message_delta", map[string]any{"delta": map[string]any{"stop_reason": "max_tokens", "stop_sequence": nil}, "usage": told(u)}),
				e.later("message_stop", map[string]any{}))
		}
	}, whole)
}

// respond serves OpenAI's responses.
func (s *server) respond(w http.ResponseWriter, r *http.Request) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	type body struct {
		Input        json.RawMessage `json:"input"`
		Instructions json.RawMessage `json:"instructions"`
		MaxTokens    *int            `json:"max_output_tokens"`
		Stream       bool            `json:"stream"`
	}
	streams := false
	a, err := read(w, r, func(b body) asked {
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
	id, created := fmt.Sprintf("resp_%d", ids.Add(1)), time.Now().Unix()
	part := func(text string) map[string]any {
		return map[string]any{"type": "output_text", "text": text, "annotations": []any{}}
	}
	item := func(status string, content ...any) map[string]any {
		return map[string]any{"id": "item_" + id, "type": "message", "role": "assistant", "status": status, "content": append([]any{}, content...)}
	}
	object := func(status string, output []any, used any) map[string]any {
		return map[string]any{
			"id": id, "object": "response", "created_at": created, "status": status, "model": s.model, "output": output,
			"usage": used, "error": nil, "incomplete_details": nil, "tools": []any{}, "parallel_tool_calls": true,
		}
	}
	whole := func(u usage) any {
		return object("completed", []any{item("completed", part(text(a.tokens)))}, map[string]any{
			"input_tokens": u.PromptTokens, "input_tokens_details": map[string]int{"cached_tokens": cachedOf(u)},
			"output_tokens": u.CompletionTokens, "output_tokens_details": map[string]int{"reasoning_tokens": 0}, "total_tokens": u.TotalTokens,
		})
	}
	if !streams {
		return s.generate(w, r, state, a, nil, whole)
	}
	return s.generate(w, r, state, a, func(e *events) (func(int) error, func(usage) error) {
		place := func(m map[string]any) map[string]any {
			m["item_id"], m["output_index"], m["content_index"] = "item_"+id, 0, 0
			return m
		}
		each := func(i int) error {
			if i == 0 {
				err := e.all(
					e.later("response.created", map[string]any{"response": object("in_progress", []any{}, nil)}),
					e.later("response.output_item.added", map[string]any{"output_index": 0, "item": item("in_progress")}),
					e.later("response.content_part.added", place(map[string]any{"part": part("")})))
				if err != nil {
					return err
				}
			}
			return e.send("response.output_text.delta", place(map[string]any{"delta": word(i), "logprobs": []any{}}))
		}
		return each, func(u usage) error {
			all := text(a.tokens)
			return e.all(
				e.later("response.output_text.done", place(map[string]any{"text": all, "logprobs": []any{}})),
				e.later("response.content_part.done", place(map[string]any{"part": part(all)})),
				e.later("response.output_item.done", map[string]any{"output_index": 0, "item": item("completed", part(all))}),
				e.later("response.completed", map[string]any{"response": whole(u)}))
		}
	}, whole)
}

// dimensions of the embeddings, whose numbers mean nothing.
const dimensions = 8

// embed serves OpenAI's embeddings: the prompt is read, and nothing is generated.
func (s *server) embed(w http.ResponseWriter, r *http.Request) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	type body struct {
		Input  json.RawMessage `json:"input"`
		Format string          `json:"encoding_format"`
	}
	format, inputs := "", 1
	a, err := read(w, r, func(b body) asked {
		var several []string
		if json.Unmarshal(b.Input, &several) == nil {
			inputs = max(1, len(several))
		}
		format = b.Format
		return asked{request{Prompt: b.Input}, 1}
	})
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", err)
		return http.StatusBadRequest
	}
	return s.generate(w, r, state, a, nil, func(u usage) any {
		data := make([]any, inputs)
		for i := range data {
			data[i] = map[string]any{"object": "embedding", "index": i, "embedding": vector(i, format)}
		}
		return map[string]any{
			"object": "list", "model": s.model, "data": data,
			"usage": map[string]int{"prompt_tokens": u.PromptTokens, "total_tokens": u.PromptTokens},
		}
	})
}

// vector is the embedding of input i, as numbers or as the base64 of 32-bit floats.
func vector(i int, format string) any {
	numbers := make([]float32, dimensions)
	numbers[i%dimensions] = 1
	if format != "base64" {
		return numbers
	}
	var raw bytes.Buffer
	for _, n := range numbers {
		_ = binary.Write(&raw, binary.LittleEndian, math.Float32bits(n))
	}
	return base64.StdEncoding.EncodeToString(raw.Bytes())
}
