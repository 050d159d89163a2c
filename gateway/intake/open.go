package intake

import (
	"errors"
	"io"
)

var errStopped = errors.New("the request has ended")

// opened is the body for one attempt at a replica.
type opened struct {
	section
	body *Body
}

// Open returns the body from its first byte. It returns nil if an earlier attempt has read a part
// that is not kept.
func (b *Body) Open() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.touched || b.reading || b.stopped || b.freed {
		return nil
	}
	b.current = &opened{section{b.chunks, b.file, b.kept, 0}, b}
	return b.current
}

// Read reads the kept part, and then what the client still sends.
func (o *opened) Read(p []byte) (int, error) {
	if o.at < o.size {
		return o.section.Read(p)
	}
	return o.readRest(p)
}

// Whole reports whether all of the body is kept, so that reading never waits for the
// client.
func (o *opened) Whole() bool { return o.body.Whole() }

// Close does nothing: the server closes the request's body, and a transport that gives up must not
// prevent the next one from reading it.
func (o *opened) Close() error { return nil }

func (o *opened) readRest(p []byte) (int, error) {
	b := o.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stopped, b.reading, b.current != o:
		return 0, errStopped
	case b.ended:
		return 0, b.err
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.rest.Read(p)
	b.mu.Lock()
	b.reading = false
	b.touched = b.touched || n > 0
	b.note(err)
	b.idle.Broadcast()
	return n, err
}

// Stop ends all reading of what the client still sends. After it returns, nothing reads the
// server's body any more. It calls abort to end a read in progress.
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

// Ended reports whether the whole body was received.
func (b *Body) Ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && errors.Is(b.err, io.EOF)
}

// Err returns the error with which receiving the body ended, nil for its regular end.
func (b *Body) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}
