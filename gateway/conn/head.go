package conn

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// headConn keeps the text of the HTTP/1 request that a connection is at. The
// server drops the Content-Length of a chunked request and the Transfer-Encoding
// of an HTTP/1.0 request before any handler sees them, but such requests have the
// shape of request smuggling.
type headConn struct {
	net.Conn
	longest int // how much is kept, in bytes
	mu      sync.Mutex
	text    []byte
}

// slop is what the server reads of a header beyond its limit, and one buffer.
const slop = 8 << 10

func newHeadConn(c net.Conn, header int) *headConn {
	return &headConn{Conn: c, longest: header + slop}
}

var preface = []byte("PRI * HTTP/2.0")

func (c *headConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	if len(c.text) < c.longest && !bytes.HasPrefix(c.text, preface) {
		c.text = append(c.text, p[:n]...)
	}
	c.mu.Unlock()
	return n, err
}

// WriteTo and ReadFrom serve connections that were handed over, such as
// WebSockets.

// WriteTo copies what the client sends.
func (c *headConn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.Conn) }

// ReadFrom copies to the client.
func (c *headConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite lets the server tell the client that nothing follows.
func (c *headConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// headTLSConn is a headConn on TLS; the server asks it for the TLS state.
type headTLSConn struct {
	*headConn
	secure *tls.Conn
}

// ConnectionState is that of tls.Conn.
func (c headTLSConn) ConnectionState() tls.ConnectionState { return c.secure.ConnectionState() }

// next forgets the request that ended and keeps what was read of the one after
// it. Of a client that does not wait for an answer both may have come at once.
func (c *headConn) next() {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := afterRequest(c.text)
	if cap(c.text) > 4096 {
		c.text = nil
	}
	c.text = append(c.text[:0], rest...)
}

// has tells whether the header of the present request has a line of that name.
func (c *headConn) has(want []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.text
	for {
		var name []byte
		var more bool
		if name, _, rest, more = headerLine(rest); !more {
			return false
		}
		if bytes.EqualFold(name, want) {
			return true
		}
	}
}

var contentLength, transferEncoding = []byte("Content-Length"), []byte("Transfer-Encoding")

// headerLine splits off the first line; more is false at the end of a header.
func headerLine(text []byte) (name, value, rest []byte, more bool) {
	line, rest, ended := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if !ended || len(line) == 0 {
		return nil, nil, rest, false
	}
	name, value, _ = bytes.Cut(line, []byte(":"))
	return name, value, rest, true
}

// afterRequest returns what follows the first request in text. Nothing does if
// text has only a part of it; a longer body than is kept looks like that.
func afterRequest(text []byte) []byte {
	if bytes.Index(text, []byte("\n\r\n")) == len(text)-3 && !bytes.Contains(text, []byte("\n\n")) {
		return nil // one header and nothing else, as nearly always
	}
	length, chunked := uint64(0), false
	first, _, _ := bytes.Cut(text, []byte("\n"))
	old := bytes.HasSuffix(bytes.TrimSuffix(first, []byte("\r")), []byte("HTTP/1.0"))
	for more := true; more; {
		var name, value []byte
		name, value, text, more = headerLine(text)
		switch {
		case bytes.EqualFold(name, contentLength):
			length, _ = strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 63)
		case bytes.EqualFold(name, transferEncoding):
			chunked = !old // the server ignores it in HTTP/1.0
		}
	}
	if chunked {
		return afterChunks(text)
	}
	return text[min(uint64(len(text)), length):]
}

func afterChunks(text []byte) []byte {
	for {
		line, _, rest, more := headerLine(text)
		line, _, _ = bytes.Cut(line, []byte(";"))
		size, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 32)
		switch {
		case !more || err != nil:
			return nil
		case size == 0:
			for more {
				_, _, rest, more = headerLine(rest)
			}
			return rest
		case size+2 >= uint64(len(rest)):
			return nil
		}
		text = rest[size+2:]
	}
}

type connKey struct{}

// Context lets Smuggles reach the connection; it is for http.Server.ConnContext.
func Context(ctx context.Context, c net.Conn) context.Context {
	if h := headOf(c); h != nil {
		return context.WithValue(ctx, connKey{}, h)
	}
	return ctx
}

func headOf(c net.Conn) *headConn {
	switch c := c.(type) {
	case *headConn:
		return c
	case headTLSConn:
		return c.headConn
	}
	return nil
}

// State forgets a head when its request has ended; it is for http.Server.ConnState.
func State(c net.Conn, s http.ConnState) {
	if h := headOf(c); h != nil && s == http.StateIdle {
		h.next()
	}
}

// Smuggles reports whether a request has two lengths, or one that its version of HTTP
// does not know.
func Smuggles(r *http.Request) bool {
	chunked, old := len(r.TransferEncoding) > 0, !r.ProtoAtLeast(1, 1)
	if r.ProtoMajor != 1 || (!chunked && !old) {
		return false
	}
	c, ok := r.Context().Value(connKey{}).(*headConn)
	return ok && ((chunked && c.has(contentLength)) || (old && c.has(transferEncoding)))
}
