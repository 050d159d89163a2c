package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// listener bounds the open connections of clients.
type listener struct {
	*net.TCPListener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newListener(l net.Listener, connections int) *listener {
	return &listener{TCPListener: l.(*net.TCPListener), room: make(chan struct{}, connections), closed: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.TCPListener.AcceptTCP()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &clientConn{TCPConn: c, listener: l}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// clientConn is a client's connection.
//
// The server moves the read deadline several times per request, and each move
// costs the runtime's poller. So the deadline that the server wants is only noted;
// the socket's own is moved when it has to become earlier, and otherwise when it
// expires and turns out to be out of date.
type clientConn struct {
	*net.TCPConn
	listener *listener
	once     sync.Once
	mu       sync.Mutex
	wanted   time.Time // read deadline, zero for none
	armed    time.Time // the socket's
}

func (c *clientConn) Close() error {
	c.once.Do(func() { <-c.listener.room })
	return c.TCPConn.Close()
}

func (c *clientConn) Read(p []byte) (int, error) {
	for {
		n, err := c.TCPConn.Read(p)
		if err != nil && errors.Is(err, os.ErrDeadlineExceeded) && c.early() {
			continue
		}
		return n, err
	}
}

// early tells whether the socket's deadline came before the wanted one, and moves
// it there.
func (c *clientConn) early() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wanted.IsZero() && !c.wanted.After(time.Now()) {
		return false
	}
	c.armed = c.wanted
	return c.TCPConn.SetReadDeadline(c.wanted) == nil
}

// SetReadDeadline is that of net.Conn.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = t
	if t.IsZero() || (!c.armed.IsZero() && !c.armed.After(t)) {
		return nil
	}
	c.armed = t
	return c.TCPConn.SetReadDeadline(t)
}

// SetDeadline is that of net.Conn.
func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.TCPConn.SetWriteDeadline(t))
}

// WriteTo keeps the socket's own from reading past Read.
func (c *clientConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
