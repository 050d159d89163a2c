package match

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Body is a request's body of which a beginning may have been read. It gives the
// body from its first byte, and can be rewound for as long as nothing after that
// beginning was read.
//
// A transport may go on reading after the request has ended, so that the state is
// locked, but never during a read.
type Body struct {
	rest    io.Reader
	read    []byte // the beginning
	mu      sync.Mutex
	idle    *sync.Cond // a read ended
	at      int        // how much of read was given
	ended   bool       // rest is at its end
	err     error
	touched bool // something of rest was given
	reading bool // a read of rest is under way
	stopped bool
}

// NewBody wraps a body.
func NewBody(rest io.Reader) *Body {
	b := &Body{rest: rest}
	b.idle = sync.NewCond(&b.mu)
	return b
}

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

var errStopped = errors.New("the request has ended")

// Read gives the body, what was read before first.
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stopped:
		return 0, errStopped
	case b.at < len(b.read):
		n := copy(p, b.read[b.at:])
		b.at += n
		return n, nil
	case b.ended:
		return 0, b.err
	}
	b.touched, b.reading = true, true
	b.mu.Unlock()
	n, err := b.rest.Read(p)
	b.mu.Lock()
	b.reading = false
	if err != nil {
		b.ended, b.err = true, err
	}
	b.idle.Broadcast()
	return n, err
}

// Rewind makes Read begin again; false when that is not possible.
func (b *Body) Rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.touched || b.stopped {
		return false
	}
	b.at = 0
	return true
}

// Stop ends all reading. When it returns nothing reads the server's body any
// more; a read that is under way is ended by abort.
func (b *Body) Stop(abort func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	if b.reading {
		abort()
	}
	for b.reading {
		b.idle.Wait()
	}
}

// Close does nothing: the server that received the request closes its body, and
// a transport that gave up must not keep the next one from reading it.
func (b *Body) Close() error { return nil }

// Ended tells whether the whole body was received.
func (b *Body) Ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && errors.Is(b.err, io.EOF)
}

// Err is the error that receiving the body ended with, nil for its end.
func (b *Body) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
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
