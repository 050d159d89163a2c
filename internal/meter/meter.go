// Package meter counts the tokens of a language model's answer as it passes, and reads the usage
// that the server reports. It accepts pieces of any size, needs a few hundred bytes for any answer,
// and does not change the answer.
//
// It knows the formats of OpenAI (chat, completions, responses, embeddings), Anthropic's messages,
// and the additions of SGLang, TGI and vLLM. In a stream of events that are not JSON objects, each
// event counts as one token. Answers in other formats or with a Content-Encoding are not counted.
package meter

import "strings"

// Meter counts one answer.
type Meter struct {
	kind   kind
	tokens int64
	events events
	doc    document
	usage  Usage
}

type kind uint8

const (
	opaque kind = iota
	stream
	whole
)

// Usage is the usage that a server reports for a request, in tokens. A number that it did not report
// is -1.
type Usage struct {
	Prompt int64 // the whole prompt
	Cached int64 // the part of the prompt that was in the server's cache
	Output int64
}

// New returns a meter for an answer with these Content-Type and Content-Encoding headers.
func New(contentType, encoding string) Meter {
	m := Meter{usage: Usage{-1, -1, -1}}
	m.doc.reset()
	if encoding != "" && encoding != "identity" {
		return m
	}
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.TrimSpace(media); {
	case strings.EqualFold(media, "text/event-stream"):
		m.kind = stream
	case strings.EqualFold(media, "application/json"):
		m.kind = whole
	}
	return m
}

// Feed reads the next piece and returns the number of tokens whose events end in it. It returns 0 for
// an answer that is not a stream.
func (m *Meter) Feed(p []byte) int64 {
	switch m.kind {
	case stream:
		before := m.tokens
		m.events.feed(p, m)
		return m.tokens - before
	case whole:
		m.doc.feed(p)
	}
	return 0
}

// End tells the meter that the answer is complete.
func (m *Meter) End() {
	switch m.kind {
	case stream:
		m.events.end(m)
	case whole:
		m.doc.end()
		m.learn()
	}
}

// Streams reports whether the answer is a stream of events.
func (m *Meter) Streams() bool { return m.kind == stream }

// Tokens returns the number of tokens so far: one for each event with text, unless the server
// reports more.
func (m *Meter) Tokens() int64 { return m.tokens }

// Text returns the length of the generated text so far, in bytes of its JSON encoding.
func (m *Meter) Text() int64 { return m.doc.text }

// Usage returns what the server has reported so far.
func (m *Meter) Usage() Usage { return m.usage }

// event counts a complete event.
func (m *Meter) event(isJSON bool) {
	if !isJSON {
		m.tokens++
		return
	}
	m.doc.end()
	found := m.learn()
	if m.doc.generates() {
		tokens := int64(1)
		if found && m.usage.Output > m.tokens {
			// The server reports its usage in each event, so the difference is the number of
			// tokens in this one.
			tokens = m.usage.Output - m.tokens
		}
		m.tokens += tokens
	}
}

// learn updates the usage from the document, and reports whether the document has the output tokens.
func (m *Meter) learn() bool {
	u := &m.doc.used
	if u.has(prompt) {
		m.usage.Prompt = u[prompt] + max(0, u[cacheRead]) + max(0, u[cacheWritten])
	}
	switch {
	case u.has(cached):
		m.usage.Cached = u[cached]
	case u.has(cacheRead):
		m.usage.Cached = u[cacheRead]
	}
	if u.has(output) {
		m.usage.Output = u[output]
	}
	return u.has(output)
}
