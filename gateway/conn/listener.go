// Package conn is the connections of clients below HTTP: how many there are, how slow
// they may be, TLS, and what of a request's head the server drops before a handler sees
// it. It wraps listeners of TCP and knows nothing of services.
package conn

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Slowest is the mean rate, in bytes per second, under which what a client sends or takes
// is given up after its first time of grace.
const Slowest = 240

// listener bounds the open connections of clients.
type listener struct {
	*net.TCPListener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Bounded accepts at most so many connections of a listener of TCP at a time, and gives
// up on a client that takes nothing of an answer.
func Bounded(l net.Listener, connections int) net.Listener {
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

	written atomic.Int64 // bytes that the socket took
	// grace is how long a write may be without progress; taken how many bytes the
	// client had taken when that time began.
	grace, taken atomic.Int64
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

// SetWriteDeadline is that of net.Conn, but a write goes on beyond it for as long as
// the client takes what was sent.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	grace := time.Duration(0)
	if !t.IsZero() {
		grace = max(0, time.Until(t))
		c.taken.Store(c.received())
	}
	c.grace.Store(int64(grace))
	return c.TCPConn.SetWriteDeadline(t)
}

// Write sends, and gives up when the client has taken nothing for the time that the
// deadline was away when it was set, or dribbles. The socket says that it is writable
// only when a large part of its buffer is free, which for a slow client may take
// minutes.
func (c *clientConn) Write(p []byte) (int, error) {
	done, began, first := 0, time.Time{}, int64(0)
	for {
		n, err := c.TCPConn.Write(p[done:])
		done += n
		c.written.Add(int64(n))
		grace := time.Duration(c.grace.Load())
		if err == nil || grace <= 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, err
		}
		if began.IsZero() {
			began, first = time.Now().Add(-grace), c.taken.Load()
		}
		taken := c.received()
		if taken <= c.taken.Load() || dribbles(taken-first, time.Since(began), grace) {
			return done, err
		}
		c.taken.Store(taken)
		c.TCPConn.SetWriteDeadline(time.Now().Add(grace))
	}
}

// dribbles reports whether a client that took so many bytes of a write that has gone on
// for so long is under the Slowest mean rate after its first time of grace.
func dribbles(taken int64, took, grace time.Duration) bool {
	return taken < int64((took-grace).Seconds()*Slowest)
}

// received is how many bytes the client's host has acknowledged.
func (c *clientConn) received() int64 {
	waiting := 0
	if raw, err := c.TCPConn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	}
	return c.written.Load() - int64(waiting)
}
