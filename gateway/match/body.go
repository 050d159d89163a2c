package match

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// Body is a request's body of which a beginning may have been read. It gives the
// body from its first byte, and can be rewound for as long as nothing after that
// beginning was read.
type Body struct {
	rest    io.ReadCloser
	read    []byte // the beginning
	at      int    // how much of read was given
	ended   bool   // rest is at its end
	err     error
	touched bool // something of rest was given
}

// NewBody wraps a body; nil for none.
func NewBody(rest io.ReadCloser) *Body { return &Body{rest: rest} }

// Model reads at most limit bytes of the body and returns the model that it
// names, "" when it names none there.
func (b *Body) Model(limit int) string {
	var s scanner
	for !s.done && !b.ended && len(b.read) < limit {
		if cap(b.read)-len(b.read) < 512 {
			grown := make([]byte, len(b.read), min(limit, max(4096, 2*cap(b.read))))
			copy(grown, b.read)
			b.read = grown
		}
		from := len(b.read)
		n, err := b.rest.Read(b.read[from:min(cap(b.read), limit)])
		b.read = b.read[:from+n]
		s.feed(b.read[from:])
		if err != nil {
			b.ended, b.err = true, err
		}
	}
	return s.model
}

// Read gives the body, what was read before first.
func (b *Body) Read(p []byte) (int, error) {
	if b.at < len(b.read) {
		n := copy(p, b.read[b.at:])
		b.at += n
		return n, nil
	}
	if b.ended {
		return 0, b.err
	}
	b.touched = true
	n, err := b.rest.Read(p)
	if err != nil {
		b.ended, b.err = true, err
	}
	return n, err
}

// Rewind makes Read begin again; false when that is not possible.
func (b *Body) Rewind() bool {
	if b.touched {
		return false
	}
	b.at = 0
	return true
}

// Close does nothing: the server that received the request closes its body, and
// a transport that gave up must not keep the next one from reading it.
func (b *Body) Close() error { return nil }

// Err is the error that receiving the body ended with, nil for its end.
func (b *Body) Err() error {
	if errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}

// Sniffable tells whether a request has a body that may name a model.
func Sniffable(r *http.Request) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	json := kind == "application/json" || strings.HasSuffix(kind, "+json")
	return json && r.ContentLength != 0 && r.Header.Get("Content-Encoding") == ""
}
