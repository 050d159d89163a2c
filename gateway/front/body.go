package front

import (
	"io"
	"net/http"
	"sync"
)

// body is the body of a request. It may be read while the handler writes the answer.
type body struct {
	conn   *conn
	mu     sync.Mutex
	left   int64 // bytes still to be read
	failed error
	closed bool
}

// Read reads what has arrived. It returns io.EOF with the last bytes.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.left == 0:
		return 0, io.EOF
	case b.failed != nil || len(p) == 0:
		return 0, b.failed
	}
	n, err := b.conn.take(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, io.EOF
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		b.failed = err
	}
	return n, err
}

// take reads from the buffer, or from the connection if the buffer is empty.
func (c *conn) take(p []byte) (int, error) {
	if c.r == c.w {
		return c.nc.Read(p)
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// Close makes further reads fail.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// skip discards the rest of the body if all of it is in the buffer. It reports whether nothing is
// left.
func (b *body) skip() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.conn; b.failed == nil && b.left <= int64(c.w-c.r) {
		c.r += int(b.left)
		b.left = 0
	}
	return b.left == 0
}

// end closes the body after the handler returns. It reports whether the next byte belongs to the
// next request.
func (b *body) end() bool {
	if b == nil {
		return true
	}
	b.Close()
	return b.skip()
}
