// Package prompt estimates from the body of a request to a language model how much work it is: the
// approximate number of tokens in its prompt, how many it may generate, and which beginnings it
// shares with other requests. It keeps no text, only lengths and keyed hashes.
//
// Bodies are scanned, but neither decoded nor validated. If a body is not JSON or incomplete, the
// sizes are those of what could be read. That is never an error: the model server validates the
// body.
package prompt

import "strings"

// API is the format of a request's body.
type API int

// The formats that are read. Any other is Opaque and counts by its bytes.
const (
	Opaque      API = iota
	Chat            // OpenAI, /v1/chat/completions
	Completions     // OpenAI, /v1/completions
	Responses       // OpenAI, /v1/responses
	Embeddings      // OpenAI, /v1/embeddings
	Messages        // Anthropic, /v1/messages
)

// paths are the suffixes of the paths at which model servers offer each API. A route may add a
// prefix.
var paths = []struct {
	end string
	api API
}{
	{"/v1/chat/completions", Chat}, {"/v1/completions", Completions}, {"/v1/responses", Responses},
	{"/v1/embeddings", Embeddings}, {"/v1/messages", Messages},
}

// Of returns the API of a path.
func Of(path string) API {
	for _, p := range paths {
		if strings.HasSuffix(path, p.end) {
			return p.api
		}
	}
	return Opaque
}

// Generates reports whether answers of the API are generated token by token.
func (a API) Generates() bool { return a != Opaque && a != Embeddings }

// Size is the amount of work that a body requests.
type Size struct {
	API API
	// Text is the length of the prompt's text in bytes of UTF-8, or the length of the whole body if
	// it is Opaque.
	Text int64
	// IDs is the number of tokens that the prompt gives as numbers.
	IDs int64
	// Media is the number of images, sounds and files in the prompt.
	Media int64
	// Limit is the maximum number of tokens of one answer, 0 if the request sets no limit.
	Limit int64
	// Exact is set if an answer always has Limit tokens.
	Exact bool
	// Answers is the number of answers to generate, at least 1.
	Answers int64
	// Streamed is set if the answer is requested as a stream of events.
	Streamed bool
	// Blocks are the chained hashes of the full blocks of the rendered prompt. Two requests with
	// the same Blocks[i] are equal up to the end of block i.
	Blocks []uint64
}

// BlockSize is the length of a block of the rendered prompt in bytes, about 512
// tokens of English.
const BlockSize = 2048

// maxBlocks limits Size.Blocks, to about a million tokens.
const maxBlocks = 2048

// mediaTokens is the assumed number of tokens of an image, a sound or a file before any was seen:
// what common vision models use for a picture of one megapixel (LLaVA 576, OpenAI's tiles 765,
// Qwen2-VL about 1,200).
const mediaTokens = 768

// Key makes hashes differ from those of other processes, so that nobody outside can find out which
// prompts have the same hash.
type Key [2]uint64

// Read reads a body in the given format. The body may be cut off; length is the length of the whole
// body, and the part that was not read is assumed to be like the part that was.
func Read(api API, body []byte, length int64, key Key) Size {
	length = max(length, int64(len(body)))
	s := Size{API: api, Answers: 1}
	if api == Opaque {
		s.Text = length
		return s
	}
	var f fields
	if !f.read(body) {
		return Size{API: Opaque, Answers: 1, Text: length}
	}
	s.Limit, s.Exact = f.limit, f.exact && f.limit > 0
	s.Answers = min(max(f.answers, 1), maxAnswers)
	s.Streamed = f.streamed
	s.render(&f, key)
	if read := int64(len(body)); read > 0 && read < length {
		// Media may be most of the bytes; the rest is assumed to be like what was read.
		part := float64(length) / float64(read)
		s.Text, s.IDs, s.Media = scaled(s.Text, part), scaled(s.IDs, part), scaled(s.Media, part)
	}
	return s
}

// maxAnswers limits how many answers a request may claim; vLLM rejects more.
const maxAnswers = 128

func scaled(n int64, by float64) int64 { return int64(float64(n) * by) }

// render processes the prompt in the order in which model servers assemble it: what precedes the
// conversation comes first, whatever the order in the body.
func (s *Size) render(f *fields, key Key) {
	w := &writer{size: s, chain: chain{key: key}}
	for _, v := range f.seed {
		w.chain.salt(v)
	}
	w.hashed = s.API != Embeddings
	for _, v := range f.first {
		w.value(v)
	}
	switch s.API {
	case Chat, Messages:
		w.value(f.messages)
	case Completions:
		w.prompts(f.prompt)
	case Responses:
		w.value(f.input)
	case Embeddings:
		w.prompts(f.input)
	}
	s.Blocks = w.chain.blocks
}
