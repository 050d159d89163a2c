package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
)

// dimensions is the length of the embeddings. Their numbers have no meaning.
const dimensions = 8

// embed serves OpenAI's embeddings: it processes the prompt and generates nothing.
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

// vector returns the embedding of input i, as numbers or as base64 of 32-bit floats.
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
