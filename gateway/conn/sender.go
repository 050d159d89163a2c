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

// outlet is a connection as its sender needs it.
type outlet interface {
	// offer writes what the socket takes at once.
	offer(p []byte) (int, error)
	// Write waits until the socket has taken all, or the deadline passes.
	Write(p []byte) (int, error)
	SetWriteDeadline(t time.Time) error
	// unread returns how many bytes the client's host has not acknowledged yet.
	unread() int64
}

// sender writes to a client's connection and bounds how long a write may be without
// progress. A write that the socket takes at once costs one system call and no timer;
// only one that has to wait gets a deadline.
type sender struct {
	outlet   outlet
	patience time.Duration

	writing sync.Mutex // one write at a time
	written int64      // bytes that the socket took

	mu     sync.Mutex
	wanted time.Time // the deadline that the server set, zero for none
	stalls time.Time // when the write that waits is given up, zero for never
}

// deadline sets the server's own deadline.
func (s *sender) deadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = t
	return s.move()
}

// stall sets when the write that waits is given up.
func (s *sender) stall(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalls = t
	return s.move()
}

// move gives the socket the earlier of both deadlines.
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

// await writes on until the client has taken nothing for as long as patience, or dribbles.
// What counts is what its host has acknowledged: the socket says that it is writable only
// when a large part of its buffer is free, which for a slow client may take minutes.
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

// received is how many bytes the client's host has acknowledged.
func (s *sender) received() int64 { return s.written - s.outlet.unread() }

// dribbles reports whether a client that took so many bytes of a write that has gone on
// for so long is under the Slowest mean rate after its first time of grace.
func dribbles(taken int64, took, grace time.Duration) bool {
	return taken < int64((took-grace).Seconds()*Slowest)
}

// tcpSocket is the socket of a connection of TCP.
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
