// Package prompt reads from the body of a request to a language model how much
// work it is: about how many tokens its prompt has, how many it may generate, and
// which beginnings it shares with other requests. It keeps no text: of a prompt
// there remain lengths and keyed hashes.
//
// Bodies are scanned, not decoded and not validated. If a body is not JSON or
// not complete, the sizes are those of what could be read. That is never an error:
// the model server judges the body.
package prompt

import "strings"

// API is the shape of a request's body.
type API int

// The shapes that are read. Any other is Opaque and counts by its bytes.
const (
	Opaque      API = iota
	Chat            // OpenAI, /v1/chat/completions
	Completions     // OpenAI, /v1/completions
	Responses       // OpenAI, /v1/responses
	Embeddings      // OpenAI, /v1/embeddings
	Messages        // Anthropic, /v1/messages
)

// paths are the ends of the paths under which model servers offer each API; what
// comes before is a prefix that a route adds.
var paths = []struct {
	end string
	api API
}{
	{"/v1/chat/completions", Chat}, {"/v1/completions", Completions}, {"/v1/responses", Responses},
	{"/v1/embeddings", Embeddings}, {"/v1/messages", Messages},
}

// Of returns the API that a path means.
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

// Size is what a body says of the work that it asks for.
type Size struct {
	API API
	// Text is the length of the prompt's text, in bytes of UTF-8; of an Opaque
	// body that of the whole body.
	Text int64
	// IDs is how many tokens the prompt gives as numbers.
	IDs int64
	// Media is how many images, sounds and files the prompt holds.
	Media int64
	// Limit is the most tokens that one answer may have, 0 when the request sets
	// no limit.
	Limit int64
	// Exact reports that an answer always has Limit tokens.
	Exact bool
	// Answers is how many answers are generated, at least 1.
	Answers int64
	// Streamed reports that the answer is asked for as a stream of events.
	Streamed bool
	// Blocks are the chained hashes of the full blocks of the rendered prompt:
	// two requests that agree in Blocks[i] agree in everything up to there.
	Blocks []uint64
}

// BlockSize is the length of a block of the rendered prompt in bytes, about 512
// tokens of English.
const BlockSize = 2048

// maxBlocks bounds Size.Blocks: about a million tokens.
const maxBlocks = 2048

// mediaTokens is what an image, a sound or a file counts as before anything was
// learned: what common vision models make of a picture of a megapixel (LLaVA 576,
// OpenAI's tiles 765, Qwen2-VL about 1,200).
const mediaTokens = 768

// Key makes hashes unlike those of other processes, so that nobody outside can
// tell which prompts have one hash.
type Key [2]uint64

// Read reads a body of the given shape. The body may end early; length is that of
// the whole one, and what was not read counts as if it were like what was.
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
		// Media may be most of the bytes; what follows is taken for like what came.
		part := float64(length) / float64(read)
		s.Text, s.IDs, s.Media = scaled(s.Text, part), scaled(s.IDs, part), scaled(s.Media, part)
	}
	return s
}

// maxAnswers bounds what a request may claim to generate; vLLM refuses more.
const maxAnswers = 128

func scaled(n int64, by float64) int64 { return int64(float64(n) * by) }

// render goes over the prompt in the order in which model servers put it
// together: what is said once before the conversation comes first, whatever the
// order of the body.
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
