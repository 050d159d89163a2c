package cache

import (
	"io"
	"net"
	"os"
	"time"
)

// piece is how much of an answer a client has to take within its patience, in bytes.
const piece = 256 << 10

// patient is a listener whose connections end where a client takes no piece of an answer
// within a time: one that never reads would hold its connection, and the object that is
// sent, for ever. How long an answer takes as a whole, or a client waits for it, has no bound.
type patient struct {
	net.Listener
	patience time.Duration
}

// Accept waits for a connection.
func (l patient) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &patientConn{tcp, l.patience}, err
	}
	return c, err
}

type patientConn struct {
	*net.TCPConn
	patience time.Duration
}

// renew gives the next piece its deadline.
func (c *patientConn) renew() error { return c.SetWriteDeadline(time.Now().Add(c.patience)) }

// Write writes all, each piece with a deadline of its own.
func (c *patientConn) Write(p []byte) (done int, err error) {
	for {
		if err := c.renew(); err != nil {
			return done, err
		}
		n, err := c.TCPConn.Write(p[done:min(len(p), done+piece)])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// ReadFrom sends a file, each piece with a deadline of its own: by sendfile(2), which wants
// the file itself below one limit. From any other reader the next bytes may be long in coming,
// so those are read before their deadline begins.
func (c *patientConn) ReadFrom(r io.Reader) (done int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	if _, ok := whole.R.(*os.File); !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	for whole.N > 0 {
		if err := c.renew(); err != nil {
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
