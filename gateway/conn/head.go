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

// headConn keeps the header of the present HTTP/1 request of a connection, to detect request
// smuggling. Before a handler runs, the server drops the Content-Length of a chunked request and
// the Transfer-Encoding of an HTTP/1.0 request.
type headConn struct {
	net.Conn
	longest int // largest size of text, in bytes
	mu      sync.Mutex
	text    []byte
}

// slop is the number of bytes of a header that the server reads beyond its limit, and one buffer.
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

// WriteTo and ReadFrom are for hijacked connections, such as WebSockets.

// WriteTo copies from the client.
func (c *headConn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.Conn) }

// ReadFrom copies to the client.
func (c *headConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite closes the write side of the connection, if it can.
func (c *headConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// headTLSConn is a headConn over TLS. The server reads the TLS state from it.
type headTLSConn struct {
	*headConn
	secure *tls.Conn
}

// ConnectionState returns the TLS state.
func (c headTLSConn) ConnectionState() tls.ConnectionState { return c.secure.ConnectionState() }

// next drops the finished request and keeps what was read of the next one: a client that pipelines
// requests may have sent both together.
func (c *headConn) next() {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := afterRequest(c.text)
	if cap(c.text) > 4096 {
		c.text = nil
	}
	c.text = append(c.text[:0], rest...)
}

// has reports whether the header of the present request has a field.
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

// headerLine splits off the first line. more is false at the end of the header.
func headerLine(text []byte) (name, value, rest []byte, more bool) {
	line, rest, ended := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if !ended || len(line) == 0 {
		return nil, nil, rest, false
	}
	name, value, _ = bytes.Cut(line, []byte(":"))
	return name, value, rest, true
}

// afterRequest returns what follows the first request in text. It returns nothing if text does not
// have the whole request, for example because its body is longer than what is kept.
func afterRequest(text []byte) []byte {
	if bytes.Index(text, []byte("\n\r\n")) == len(text)-3 && !bytes.Contains(text, []byte("\n\n")) {
		return nil // only one header: nearly always
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

// Context adds the connection to ctx for Smuggles. Use it for http.Server.ConnContext.
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

// State drops the header of a finished request. Use it for http.Server.ConnState.
func State(c net.Conn, s http.ConnState) {
	if h := headOf(c); h != nil && s == http.StateIdle {
		h.next()
	}
}

// Smuggles reports whether a request has two lengths, or a Transfer-Encoding in HTTP/1.0.
func Smuggles(r *http.Request) bool {
	chunked, old := len(r.TransferEncoding) > 0, !r.ProtoAtLeast(1, 1)
	if r.ProtoMajor != 1 || (!chunked && !old) {
		return false
	}
	c, ok := r.Context().Value(connKey{}).(*headConn)
	return ok && ((chunked && c.has(contentLength)) || (old && c.has(transferEncoding)))
}
