// Package socket reads from and writes to TCP sockets with system calls that never wait.
//
// Package syscall announces each call to the Go scheduler, because the call may wait. If a call
// takes more than 20 us, the scheduler gives its processor to another thread; a thread of the
// runtime wakes every 20 us to find such calls. A write to a socket on the same host often takes
// that long, because the kernel delivers the data within the call. Calls that cannot wait need none
// of this.
package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// maxQuick is the largest number of bytes that a call may move without announcing it to the
// scheduler. Copying more takes so long that other goroutines should get the processor meanwhile.
const maxQuick = 64 << 10

// Socket is the socket of a connection. It is safe for concurrent use.
type Socket struct {
	conn    *net.TCPConn
	raw     syscall.RawConn
	in, out side
	look    func(fd uintptr) // peek, allocated once
	one     [1]byte
}

// side is one direction: one call at a time.
type side struct {
	mu   sync.Mutex
	call func(fd uintptr) bool // receive or send, allocated once
	p    []byte
	n    int
	err  error
}

// Of returns the socket of a connection. The connection stays usable.
func Of(c *net.TCPConn) *Socket {
	s := &Socket{conn: c}
	s.raw, _ = c.SyscallConn() // fails only for nil
	s.in.call, s.out.call, s.look = s.in.receive, s.out.send, s.peek
	return s
}

// Read is like net.Conn's Read: it waits until there is data.
func (s *Socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // otherwise it would wait for data
	}
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	n, err := s.in.move(s.raw.Read, p)
	switch {
	case err != nil:
		return n, s.wrap("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Offer writes as much as the socket accepts without waiting, which may be nothing.
func (s *Socket) Offer(p []byte) (int, error) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	n, err := s.out.move(s.raw.Write, p)
	if err != nil {
		return n, s.wrap("write", err)
	}
	return n, nil
}

// Quiet reports whether the connection is open and has no data. If there is data, a byte of it is
// lost.
func (s *Socket) Quiet() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	return s.raw.Control(s.look) == nil && s.in.err == syscall.EAGAIN
}

func (s *Socket) peek(fd uintptr) { s.in.n, s.in.err = receive(fd, s.one[:]) }

// Control calls f with the descriptor, as syscall.RawConn does.
func (s *Socket) Control(f func(fd uintptr)) error { return s.raw.Control(f) }

// move makes the runtime call d.call with the descriptor, which it keeps open meanwhile.
func (d *side) move(with func(func(uintptr) bool) error, p []byte) (int, error) {
	d.p, d.n, d.err = p, 0, nil
	err := with(d.call)
	d.p = nil
	if err == nil {
		err = d.err
	}
	return d.n, err
}

// receive returns false if there is no data, so that the runtime waits for more.
func (d *side) receive(fd uintptr) bool {
	d.n, d.err = receive(fd, d.p)
	return d.err != syscall.EAGAIN
}

// send always returns true: otherwise the runtime would wait until the socket accepts more.
func (d *side) send(fd uintptr) bool {
	if d.n, d.err = send(fd, d.p); d.err == syscall.EAGAIN {
		d.err = nil
	}
	return true
}

// wrap returns an error like those of package net, which name the operation.
func (s *Socket) wrap(op string, err error) error {
	var errno syscall.Errno
	var known *net.OpError
	switch {
	case errors.As(err, &errno):
		err = os.NewSyscallError(op, errno)
	case errors.As(err, &known):
		err = known.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: err}
}
