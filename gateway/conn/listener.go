// Package conn is the connections of clients below HTTP: how many there are, how slow
// they may be, TLS, and what of a request's head the server drops before a handler sees
// it. It wraps listeners of TCP and knows nothing of services.
package conn

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"aliquot.example/gateway/socket"
)

// Slowest is the mean rate, in bytes per second, under which what a client sends or takes
// is given up after its first time of grace.
const Slowest = 240

// listener bounds the open connections of clients.
type listener struct {
	*net.TCPListener
	room     chan struct{}
	closed   chan struct{}
	once     sync.Once
	patience time.Duration
}

// Bounded accepts at most so many connections of a listener of TCP at a time. A write to a
// client that takes nothing for as long as patience fails, whatever is written: an answer, a
// frame of HTTP/2, or what passes through a tunnel; 0 for no bound.
func Bounded(l net.Listener, connections int, patience time.Duration) net.Listener {
	return &listener{
		TCPListener: l.(*net.TCPListener), room: make(chan struct{}, connections), closed: make(chan struct{}),
		patience: patience,
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.room
		return nil, err
	}
	return newClientConn(c, l), nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// clientConn is a client's connection.
//
// The server moves the read deadline several times per request, and each move of
// the socket's own would set a timer and may wake a thread. So the deadline that
// the server wants is only noted, and one timer per connection looks after it now
// and then.
type clientConn struct {
	*net.TCPConn
	listener *listener
	once     sync.Once
	mu       sync.Mutex
	wanted   time.Time // read deadline, zero for none
	expired  bool      // the socket was told so
	timer    *time.Timer
	looks    time.Time // when the timer fires, zero for never

	socket *socket.Socket
	sender sender
}

func newClientConn(tcp *net.TCPConn, l *listener) *clientConn {
	c := &clientConn{TCPConn: tcp, listener: l, socket: socket.Of(tcp)}
	c.sender.outlet, c.sender.patience = tcpSocket{tcp, c.socket}, l.patience
	return c
}

func (c *clientConn) Close() error {
	c.once.Do(func() {
		<-c.listener.room
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wanted = time.Time{}
		if c.timer != nil {
			c.timer.Stop()
		}
	})
	return c.TCPConn.Close()
}

// Read is that of net.Conn.
func (c *clientConn) Read(p []byte) (int, error) { return c.socket.Read(p) }

// SetReadDeadline is that of net.Conn.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = t
	left := time.Duration(1)
	if !t.IsZero() {
		left = time.Until(t)
	}
	if expired := left <= 0; expired || c.expired {
		c.expired = expired
		at := time.Time{}
		if expired {
			at = t
		}
		if err := c.TCPConn.SetReadDeadline(at); err != nil {
			return err
		}
	}
	if !t.IsZero() && left > 0 && (c.looks.IsZero() || t.Before(c.looks)) {
		c.lookIn(left, t)
	}
	return nil
}

func (c *clientConn) lookIn(d time.Duration, at time.Time) {
	c.looks = at
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.look)
		return
	}
	c.timer.Reset(d)
}

// look ends a read that is overdue.
func (c *clientConn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks = time.Time{}
	switch left := time.Until(c.wanted); {
	case c.wanted.IsZero():
	case left > 0:
		c.lookIn(left, c.wanted)
	default:
		c.expired = true
		c.TCPConn.SetReadDeadline(c.wanted)
	}
}

// SetDeadline is that of net.Conn.
func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline is that of net.Conn. It comes on top of the listener's patience.
func (c *clientConn) SetWriteDeadline(t time.Time) error { return c.sender.deadline(t) }

// Write sends, for as long as the client takes something within the listener's patience.
func (c *clientConn) Write(p []byte) (int, error) { return c.sender.write(p) }

// ReadFrom sends what it reads. That of net.TCPConn would leave the waiting to the kernel.
func (c *clientConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{c}, r) }
