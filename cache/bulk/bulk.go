// Package bulk reads and writes connections that carry large objects with few system calls. A
// process that wakes for each packet spends more CPU time on waking than on the bytes.
package bulk

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// wakeThreshold is how many bytes wake a reader. More would not fit into half of the buffer that the
	// kernel allocates for a new connection.
	wakeThreshold = 64 << 10
	// coalesceTime is how long fewer bytes may wait in the kernel. The last bytes of nearly every answer
	// wait that long, so it is short compared with the time of a chunk. At 250 Mbit/s enough bytes
	// arrive within it.
	coalesceTime = 2 * time.Millisecond
	// piece is the size of a buffer, in bytes.
	piece = 256 << 10
)

var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// Dial wraps a dialer so that its connections are Conns.
func Dial(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if tcp, ok := c.(*net.TCPConn); ok && err == nil {
			return New(tcp)
		}
		return c, err
	}
}

// Conn is a connection whose reader does not wake for each packet. It wakes when enough bytes have
// arrived, or after coalesceTime if fewer have. The first bytes after a write or a pause wake it
// at once, because they begin an answer. Only one goroutine may read, and it must not set
// deadlines.
type Conn struct {
	*net.TCPConn
	raw      syscall.RawConn
	coalesce time.Duration
	// prompt is how many bytes more wake the reader at once. It gathers from 0 on.
	prompt atomic.Int64
	waking sync.Mutex // held while prompt crosses 0 and the kernel learns of it
	timed  bool       // the socket has the deadline of the last coalesced read

	buffer *[piece]byte // bytes that were read but not yet requested; nil if there are none
	rest   []byte       // of buffer
}

// New returns a Conn for a connection.
func New(c *net.TCPConn) (*Conn, error) {
	raw, err := c.SyscallConn()
	conn := &Conn{TCPConn: c, raw: raw, coalesce: coalesceTime}
	conn.prompt.Store(wakeThreshold)
	return conn, err
}

// Write writes p. The reader then wakes for the first bytes that arrive, because they begin the
// answer.
func (c *Conn) Write(p []byte) (int, error) {
	c.wakeAtOnce()
	return c.TCPConn.Write(p)
}

// wakeAtOnce makes the next bytes wake the reader at once.
func (c *Conn) wakeAtOnce() {
	c.waking.Lock()
	defer c.waking.Unlock()
	if c.prompt.Swap(wakeThreshold) <= 0 {
		c.wake(1)
	}
}

// wakeOnThreshold makes only enough bytes wake the reader, unless something was written meanwhile.
func (c *Conn) wakeOnThreshold() {
	c.waking.Lock()
	defer c.waking.Unlock()
	if c.prompt.Load() <= 0 {
		c.wake(wakeThreshold)
	}
}

// Read reads. A short p is served from a buffer, because TLS requests one record at a time.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) >= wakeThreshold && len(c.rest) == 0 {
		return c.read(p)
	}
	if len(c.rest) == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.release()
	}
	return n, nil
}

// fill waits for bytes. It takes a buffer only when there are some, because most connections are
// idle.
func (c *Conn) fill() error {
	if c.prompt.Load() > 0 {
		var one [1]byte
		n, err := c.read(one[:])
		if n == 0 {
			return err
		}
		c.buffer = pieces.Get().(*[piece]byte)
		c.buffer[0] = one[0]
		n, err = c.now(c.buffer[1:])
		if err != nil {
			n = 0 // the next read says so again
		}
		c.rest = c.buffer[:1+n]
		return nil
	}
	c.buffer = pieces.Get().(*[piece]byte)
	n, err := c.read(c.buffer[:])
	if n == 0 {
		c.release()
		return err
	}
	c.rest = c.buffer[:n]
	return nil
}

func (c *Conn) release() {
	pieces.Put(c.buffer)
	c.buffer, c.rest = nil, nil
}

// read waits for wakeThreshold bytes, for coalesceTime, or for the first bytes of an answer.
func (c *Conn) read(p []byte) (int, error) {
	if c.prompt.Load() <= 0 {
		n, err := c.within(p)
		if n > 0 || !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		c.wakeAtOnce() // it pauses
	}
	if err := c.clearDeadline(); err != nil {
		return 0, err
	}
	n, err := c.TCPConn.Read(p)
	if n > 0 && c.prompt.Add(-int64(n)) <= 0 {
		c.wakeOnThreshold()
	}
	return n, err
}

// within reads what has arrived when the kernel reports wakeThreshold bytes, or after coalesceTime. It returns
// EAGAIN if nothing has arrived.
func (c *Conn) within(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.coalesce)); err != nil {
		return 0, err
	}
	c.timed = true
	woken := false
	n, err := c.receive(p, func(fd int) bool {
		if woken {
			return true
		}
		woken = true // when this is called again
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return ready > 0 || err != nil
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if err := c.clearDeadline(); err != nil {
		return 0, err
	}
	return c.now(p)
}

// clearDeadline removes the deadline of a coalesced read.
func (c *Conn) clearDeadline() error {
	if !c.timed {
		return nil
	}
	c.timed = false
	return c.SetReadDeadline(time.Time{})
}

// now reads what has arrived.
func (c *Conn) now(p []byte) (n int, err error) {
	return c.receive(p, func(int) bool { return true })
}

// receive reads what has arrived once the condition holds. It checks the condition first, and
// whenever the kernel wakes the reader.
func (c *Conn) receive(p []byte, condition func(fd int) bool) (n int, err error) {
	failed := c.raw.Read(func(fd uintptr) bool {
		if !condition(int(fd)) {
			return false
		}
		for n, err = unix.Read(int(fd), p); err == unix.EINTR; {
			n, err = unix.Read(int(fd), p)
		}
		return true
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// wake sets how many bytes wake the reader. Fewer wake it when the kernel's buffer is full or the
// peer closes. If the option cannot be set, each packet wakes it.
func (c *Conn) wake(bytes int) {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) })
}
