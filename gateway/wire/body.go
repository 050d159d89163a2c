package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"aliquot.example/gateway/field"
)

// kind says how a body ends.
type kind uint8

const (
	none kind = iota
	byLength
	inChunks
	toClose // ends when the connection closes
)

// body is the body of an answer. Only one goroutine may read and close it.
type body struct {
	conn     *conn // nil when the exchange has ended
	response *http.Response
	kind     kind
	unclear  bool  // a status that allows no body came with one
	left     int64 // bytes left of the body or chunk
	inData   bool  // the CR LF after a chunk's data is still to come
	excess   int64 // framing bytes beyond the usual overhead
	err      error
}

var errBodyClosed = errors.New("the body of the answer is closed")

// Read reads at least one byte. If it knows that the body ends there, it returns io.EOF with the
// last bytes, so that the connection is free as early as possible.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	var n int
	var err error
	switch b.kind {
	case byLength:
		n, err = b.plain(p)
		if b.left == 0 && err == nil {
			err = io.EOF
		}
	case inChunks:
		n, err = b.chunks(p)
	default:
		n, err = b.conn.take(p)
	}
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// end returns the connection to the pool, or closes it.
func (b *body) end(err error) {
	c := b.conn
	b.conn = nil
	if b.err = err; err == io.EOF {
		c.done()
		return
	}
	b.err = c.reason(err)
	c.drop()
}

// Close ends the exchange. If the body was not read to its end, it closes the connection.
func (b *body) Close() error {
	if b.conn != nil {
		c := b.conn
		b.conn, b.err = nil, errBodyClosed
		c.drop()
	}
	return nil
}

// take reads from the buffer, or from the connection if the buffer is empty.
func (c *conn) take(p []byte) (int, error) {
	if c.r == c.w {
		return c.read(p)
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// plain reads from the remaining bytes of a body or chunk.
func (b *body) plain(p []byte) (int, error) {
	n, err := b.conn.take(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, nil
	}
	return n, unexpected(err)
}

// chunks reads the data of all chunks that have arrived.
func (b *body) chunks(p []byte) (n int, err error) {
	c := b.conn
	for n < len(p) {
		if b.left == 0 {
			if n > 0 && !b.nextIsThere() {
				break
			}
			if err := b.nextChunk(); err != nil {
				return n, err
			}
			continue
		}
		if n > 0 && c.r == c.w {
			break
		}
		// Small chunks go through the buffer, together with what follows them.
		if c.r == c.w && b.left < int64(len(c.buf)) {
			if err := c.fill(len(c.buf)); err != nil {
				return n, unexpected(err)
			}
		}
		m, err := b.plain(p[n:])
		if n += m; err != nil {
			return n, err
		}
		b.inData = b.left == 0
	}
	return n, nil
}

// nextIsThere reports whether the next chunk's size, or the end of the body, is in the buffer.
func (b *body) nextIsThere() bool {
	text := b.conn.buf[b.conn.r:b.conn.w]
	if b.inData {
		if len(text) < 2 {
			return false
		}
		text = text[2:]
	}
	if len(text) > 0 && text[0] == '0' {
		return bytes.Contains(text, []byte("\r\n\r\n"))
	}
	return bytes.IndexByte(text, '\n') >= 0
}

// Bounds on framing, in bytes: the line with a chunk's size, the trailer, and the total overhead of
// chunk sizes above the usual.
const (
	maxSizeLine = 256
	maxTrailer  = 4 << 10
	maxExcess   = 16 << 10
)

// nextChunk reads the size of the next chunk, or the trailer after the last one.
func (b *body) nextChunk() error {
	if b.inData {
		end, err := b.need(2)
		if err != nil {
			return err
		}
		if string(end) != "\r\n" {
			return malformed("a chunk is longer than its size says")
		}
		b.conn.r += 2
		b.inData = false
	}
	line, err := b.line(maxSizeLine)
	if err != nil {
		return err
	}
	if b.left, err = parseSize(line); err != nil {
		return err
	}
	overhead := int64(len(line)) + 4
	b.excess = max(0, b.excess+overhead-16-2*b.left)
	if b.excess > maxExcess {
		return malformed("its chunks are too small")
	}
	if b.left > 0 {
		return nil
	}
	return b.trailer()
}

// need returns the next n bytes without consuming them.
func (b *body) need(n int) ([]byte, error) {
	c := b.conn
	for c.w-c.r < n {
		if err := c.fill(len(c.buf)); err != nil {
			return nil, unexpected(err)
		}
	}
	return c.buf[c.r : c.r+n], nil
}

// line consumes a line and returns it without its CR LF.
func (b *body) line(longest int) ([]byte, error) {
	c := b.conn
	for {
		text := c.buf[c.r:c.w]
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			if end == 0 || end > longest || text[end-1] != '\r' {
				return nil, malformed("a line with a chunk's size or a trailer is too long or does not end with CR LF")
			}
			c.r += end + 1
			return text[:end-1], nil
		}
		if len(text) > longest {
			return nil, malformed("a line with a chunk's size or a trailer is too long or does not end with CR LF")
		}
		if err := c.fill(len(c.buf)); err != nil {
			return nil, unexpected(err)
		}
	}
}

// parseSize reads a chunk's size: hexadecimal digits and an optional extension.
func parseSize(line []byte) (int64, error) {
	digits := line
	if end := bytes.IndexAny(line, "; \t"); end >= 0 {
		digits = line[:end]
		if rest := bytes.TrimLeft(line[end:], " \t"); len(rest) > 0 && rest[0] != ';' {
			return 0, malformed("a chunk has the invalid size %.20q", line)
		}
	}
	if len(digits) == 0 || len(digits) > 15 || !field.IsValue(line) {
		return 0, malformed("a chunk has the invalid size %.20q", line)
	}
	size := int64(0)
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, malformed("a chunk has the invalid size %.20q", line)
		}
		size = size<<4 | int64(c)
	}
	return size, nil
}

// trailer reads the fields after the last chunk. It returns io.EOF on success.
func (b *body) trailer() error {
	var fields http.Header
	for total := 0; ; {
		line, err := b.line(maxTrailer)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if total += len(line) + 2; total > maxTrailer {
			return malformed("its trailer is too large")
		}
		name, value, err := field.Parse(line)
		if err != nil {
			return malformed("%v", err)
		}
		if fields == nil {
			fields = http.Header{}
		}
		field.Put(fields, name, []string{value})
	}
	if fields != nil {
		merge(&b.response.Trailer, fields)
	}
	return io.EOF
}
