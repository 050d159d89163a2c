package front

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// leaving watches all connections for clients that close or half-close them, even with unread bytes
// in between. It uses one epoll descriptor and one goroutine. A connection is added once and costs
// nothing per request.
type leaving struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex
	conns map[uint64]*conn
	last  uint64
}

func watch() (*leaving, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // so that the runtime's poller waits for it
	l := &leaving{file: os.NewFile(uintptr(fd), "epoll"), conns: map[uint64]*conn{}}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, err
	}
	go l.run()
	return l, nil
}

func (l *leaving) close() { l.file.Close() }

var errNoSocket = errors.New("the connection is not a socket")

// add watches a connection until it is closed.
func (l *leaving) add(c *conn) (token uint64, err error) {
	socket, ok := c.nc.(syscall.Conn)
	if !ok {
		return 0, errNoSocket
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	l.last++
	token = l.last
	l.conns[token] = c
	l.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(token), Pad: int32(token >> 32)}
	var failed error
	ended := l.raw.Control(func(epoll uintptr) {
		err = raw.Control(func(fd uintptr) { failed = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &event) })
	})
	if err = errors.Join(ended, err, failed); err != nil {
		l.forget(token)
	}
	return token, err
}

// forget stops reporting a connection that was closed or handed over.
func (l *leaving) forget(token uint64) {
	l.mu.Lock()
	delete(l.conns, token)
	l.mu.Unlock()
}

func (l *leaving) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		err := l.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n != 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:max(n, 0)] {
			l.mu.Lock()
			c := l.conns[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
			l.mu.Unlock()
			if c != nil {
				c.left()
			}
		}
	}
}
