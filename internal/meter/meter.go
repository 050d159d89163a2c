// Package meter reads the answer of a language model's server as it passes: when
// tokens come, how many, and what the server says that it used. It takes pieces of
// any size, keeps a few hundred bytes whatever the answer is, and changes nothing.
//
// The shapes that it knows are OpenAI's (chat, completions, responses, embeddings),
// Anthropic's messages, and what SGLang, TGI and vLLM add to them. In a stream of
// events that are no JSON objects each counts as one token, and of any other answer
// there are its bytes.
package meter

import "strings"

// Meter reads one answer.
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

// Usage is what a server says that a request used, in tokens. A number that it did
// not say is -1.
type Usage struct {
	Prompt int64 // all of the prompt
	Cached int64 // the part of it that was found in the server's cache
	Output int64
}

// New returns a meter for an answer with these values of the headers Content-Type
// and Content-Encoding.
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

// Feed reads the next piece and returns how many tokens came to their end in it.
// Of an answer that is no stream none do.
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

// Tokens is how many tokens came so far, one for each event that holds any unless
// the server says more.
func (m *Meter) Tokens() int64 { return m.tokens }

// Text is the length of the generated text so far, in bytes as JSON writes it.
func (m *Meter) Text() int64 { return m.doc.text }

// Usage is what the server has said so far.
func (m *Meter) Usage() Usage { return m.usage }

// event counts an event that is complete.
func (m *Meter) event(isJSON bool) {
	if !isJSON {
		m.tokens++
		return
	}
	m.doc.end()
	told := m.learn()
	if m.doc.generates() {
		tokens := int64(1)
		if told && m.usage.Output > m.tokens {
			// A server that tells its usage with each event tells also how many
			// tokens the event holds.
			tokens = m.usage.Output - m.tokens
		}
		m.tokens += tokens
	}
}

// learn takes over what the document said of usage and reports whether that
// included the output.
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
