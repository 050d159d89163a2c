package conn

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/gateway/socket"
)

// outlet is the connection of a sender.
type outlet interface {
	// offer writes as much as the socket accepts without waiting.
	offer(p []byte) (int, error)
	// Write waits until the socket has accepted everything, or the deadline passes.
	Write(p []byte) (int, error)
	SetWriteDeadline(t time.Time) error
	// unread returns the number of bytes that the client's host has not acknowledged yet.
	unread() int64
}

// sender writes to a client's connection, and limits the time that a write may make no progress. A
// write that the socket accepts at once needs one system call and no timer. Only a write that has
// to wait gets a deadline.
type sender struct {
	outlet   outlet
	patience time.Duration

	writing sync.Mutex // one write at a time
	written int64      // bytes accepted by the socket

	mu     sync.Mutex
	wanted time.Time // the server's own deadline, zero for none
	stalls time.Time // deadline of the waiting write, zero for none
}

// deadline sets the server's own deadline.
func (s *sender) deadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = t
	return s.move()
}

// stall sets the deadline of the waiting write.
func (s *sender) stall(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalls = t
	return s.move()
}

// move sets the earlier of both deadlines on the socket.
func (s *sender) move() error {
	at := s.wanted
	if at.IsZero() || !s.stalls.IsZero() && s.stalls.Before(at) {
		at = s.stalls
	}
	return s.outlet.SetWriteDeadline(at)
}

// expired reports whether the server's own deadline has passed.
func (s *sender) expired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.wanted.IsZero() && !time.Now().Before(s.wanted)
}

func (s *sender) write(p []byte) (int, error) {
	if s.patience <= 0 {
		return s.outlet.Write(p)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.outlet.offer(p)
	s.written += int64(n)
	if err != nil || n == len(p) {
		return n, err
	}
	rest, err := s.await(p[n:])
	return n + rest, err
}

// await writes until everything is written, or until the client has received nothing for patience
// or dribbles. It counts the bytes that the client's host has acknowledged: the socket becomes
// writable only when a large part of its buffer is free, which may take minutes for a slow client.
func (s *sender) await(p []byte) (int, error) {
	began, done := time.Now(), 0
	first := s.received()
	defer s.stall(time.Time{})
	for taken := first; ; {
		s.stall(time.Now().Add(s.patience))
		n, err := s.outlet.Write(p[done:])
		done += n
		s.written += int64(n)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || s.expired() {
			return done, err
		}
		now := s.received()
		if now <= taken || dribbles(now-first, time.Since(began), s.patience) {
			return done, err
		}
		taken = now
	}
}

// received returns the number of bytes that the client's host has acknowledged.
func (s *sender) received() int64 { return s.written - s.outlet.unread() }

// dribbles reports whether the mean rate of a write is below Slowest. taken is the number of
// received bytes, took the duration of the write, and grace the time that does not count.
func dribbles(taken int64, took, grace time.Duration) bool {
	return taken < int64((took-grace).Seconds()*Slowest)
}

// tcpSocket is the outlet of a TCP connection.
type tcpSocket struct {
	*net.TCPConn
	socket *socket.Socket
}

func (s tcpSocket) offer(p []byte) (int, error) { return s.socket.Offer(p) }

func (s tcpSocket) unread() int64 {
	n := 0
	s.socket.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return int64(n)
}
