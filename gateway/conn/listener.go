// Package conn handles clients' connections below HTTP: their number, their slowness, TLS, and
// header fields that the server drops before a handler runs. It wraps TCP listeners.
package conn

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"aliquot.example/gateway/socket"
)

// Slowest is the lowest mean rate, in bytes per second, at which a client may send or receive after
// the first timeout has passed.
const Slowest = 240

// listener limits the open connections of clients.
type listener struct {
	*net.TCPListener
	room     chan struct{}
	closed   chan struct{}
	once     sync.Once
	patience time.Duration
}

// Bounded limits the open connections of a TCP listener. A write fails if the client receives
// nothing for patience, whether it is an answer, an HTTP/2 frame or data of a tunnel; 0 means no
// limit.
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
// The server changes the read deadline several times per request. Each change of the socket's
// deadline would set a timer and might wake a thread. clientConn therefore only stores the
// deadline, and checks it with one timer per connection.
type clientConn struct {
	*net.TCPConn
	listener *listener
	once     sync.Once
	mu       sync.Mutex
	wanted   time.Time // read deadline, zero for none
	expired  bool      // the deadline was set on the socket
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

// Read implements net.Conn.
func (c *clientConn) Read(p []byte) (int, error) { return c.socket.Read(p) }

// SetReadDeadline implements net.Conn.
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

// look ends an overdue read.
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

// SetDeadline implements net.Conn.
func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn. The deadline applies in addition to the listener's patience.
func (c *clientConn) SetWriteDeadline(t time.Time) error { return c.sender.deadline(t) }

// Write implements net.Conn. It fails if the client receives nothing for the listener's patience.
func (c *clientConn) Write(p []byte) (int, error) { return c.sender.write(p) }

// ReadFrom copies from r with Write. That of net.TCPConn would wait in the kernel, without the limit.
func (c *clientConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{c}, r) }
