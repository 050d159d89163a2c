package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
)

// request is the relevant part of an OpenAI completion or chat request.
type request struct {
	Model     string          `json:"model"`
	Prompt    json.RawMessage `json:"prompt"`
	Messages  []message       `json:"messages"`
	MaxTokens *int            `json:"max_tokens"`
	// MaxCompletionTokens is the newer name of max_tokens in chat requests.
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	// MinTokens is vLLM's min_tokens: the answer ends there if it is below the limit.
	MinTokens     int  `json:"min_tokens"`
	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage    bool `json:"include_usage"`
		ContinuousUsage bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	// Details are known only to a server that batches.
	Details *promptDetails `json:"prompt_tokens_details,omitempty"`
}

type promptDetails struct {
	Cached int `json:"cached_tokens"`
}

// answer is a completion, a chat completion or a chunk of either.
type answer struct {
	ID          string   `json:"id"`
	Object      string   `json:"object"`
	Created     int64    `json:"created"`
	Model       string   `json:"model"`
	Fingerprint string   `json:"system_fingerprint"`
	Choices     []choice `json:"choices"`
	Usage       *usage   `json:"usage,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Text         *string `json:"text,omitempty"`
	Message      *spoken `json:"message,omitempty"`
	Delta        *spoken `json:"delta,omitempty"`
	FinishReason *string `json:"finish_reason"`
}

type spoken struct {
	Role    string `json:"role,omitempty"`
	Content string `json:"content"`
}

const (
	defaultTokens = 16
	maxTokens     = 100_000
	// maxBody limits the size of a request. The longest prompts of public traces are far below it.
	maxBody = 4 << 20
)

// decode decodes and checks a request. Its errors are for the client.
func decode(w http.ResponseWriter, r *http.Request, chat bool) (req request, tokens int, err error) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		return req, 0, fmt.Errorf("the body is not a completion request: %w", err)
	}
	switch {
	case chat && len(req.Messages) == 0:
		return req, 0, fmt.Errorf("messages is empty: want at least one message")
	case !chat && len(req.Prompt) == 0:
		return req, 0, fmt.Errorf("prompt is missing")
	}
	tokens = defaultTokens
	for _, n := range []*int{req.MaxTokens, req.MaxCompletionTokens} {
		if n != nil {
			tokens = *n
		}
	}
	if tokens < 1 || tokens > maxTokens {
		return req, 0, fmt.Errorf("max_tokens is %d: want 1 to %d", tokens, maxTokens)
	}
	if req.MinTokens < 0 || req.MinTokens > tokens {
		return req, 0, fmt.Errorf("min_tokens is %d: want 0 to max_tokens, %d", req.MinTokens, tokens)
	}
	return req, tokens, nil
}

// bytesPerToken is the number of bytes that count as one token.
const bytesPerToken = 4

// promptTokens returns the length of the prompt in tokens, at least 1.
func (r request) promptTokens() int {
	bytes := len(r.Prompt)
	for _, m := range r.Messages {
		bytes += len(m.Content)
	}
	return max(1, (bytes+bytesPerToken-1)/bytesPerToken)
}

// job returns the work of the request. An answer is as short as the request allows: min_tokens if
// set, otherwise the limit.
func (r request) job(limit int) job {
	j := job{prompt: r.promptTokens(), output: limit, prefix: r.prefix}
	if r.MinTokens > 0 {
		j.output = r.MinTokens
	}
	return j
}

// prefix returns a hash for each full page of the prompt, which covers that page and all before it.
func (r request) prefix(page int) []uint64 {
	h := fnv.New64a()
	var out []uint64
	left := page * bytesPerToken
	write := func(text []byte) {
		for len(text) >= left {
			h.Write(text[:left])
			out, text, left = append(out, h.Sum64()), text[left:], page*bytesPerToken
		}
		h.Write(text)
		left -= len(text)
	}
	write(r.Prompt)
	for _, m := range r.Messages {
		fmt.Fprintf(h, "<%s>", m.Role)
		write(m.Content)
	}
	return out
}

// word returns the filler for token i.
func word(i int) string {
	words := [...]string{"a", "part", "that", "divides", "the", "whole", "without", "remainder"}
	return words[i%len(words)] + " "
}

// text returns the filler for n tokens.
func text(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(word(i))
	}
	return b.String()
}

// refuse answers with an error in OpenAI's shape.
func refuse(w http.ResponseWriter, code int, kind string, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"error": map[string]any{"message": err.Error(), "type": kind, "code": code},
	})
}
