package cache

import (
	"io"
	"net"
	"os"
	"time"
)

// piece is the part of an answer that a client must read within the limit, in bytes.
const piece = 256 << 10

// stallListener closes the connection of a client that reads no piece of an answer within a limit.
// A client that never reads would otherwise hold its connection, and the object being sent,
// forever. There is no limit for a whole answer, nor for the time that a client waits for one.
type stallListener struct {
	net.Listener
	limit time.Duration
}

// Accept waits for a connection.
func (l stallListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &stallConn{tcp, l.limit}, err
	}
	return c, err
}

type stallConn struct {
	*net.TCPConn
	limit time.Duration
}

// extend sets the deadline of the next piece.
func (c *stallConn) extend() error { return c.SetWriteDeadline(time.Now().Add(c.limit)) }

// Write writes all of p. Each piece has its own deadline.
func (c *stallConn) Write(p []byte) (done int, err error) {
	for {
		if err := c.extend(); err != nil {
			return done, err
		}
		n, err := c.TCPConn.Write(p[done:min(len(p), done+piece)])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// ReadFrom sends a file with sendfile(2). Each piece has its own deadline. sendfile needs the
// file itself below a single LimitedReader. Another reader may wait for its next bytes, so
// ReadFrom reads those before their deadline begins.
func (c *stallConn) ReadFrom(r io.Reader) (done int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	if _, ok := whole.R.(*os.File); !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	for whole.N > 0 {
		if err := c.extend(); err != nil {
			return done, err
		}
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, piece)}
		want := part.N
		n, err := c.TCPConn.ReadFrom(part)
		done, whole.N = done+n, whole.N-n
		if err != nil || n < want {
			return done, err
		}
	}
	return done, nil
}
