package gateway

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// isShortage reports whether an error is for want of something of this host, which
// says nothing of the one that was to be reached.
func isShortage(err error) bool {
	for _, number := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS,
		syscall.ENOMEM} {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

// shortages counts what the host refused and logs it now and then.
type shortages struct {
	counts *prometheus.CounterVec
	log    *slog.Logger
	mu     sync.Mutex
	told   time.Time
}

// shortageEvery is how often a shortage is logged at most.
const shortageEvery = 10 * time.Second

func (s *shortages) note(to string, err error) {
	s.counts.WithLabelValues(to).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.told) > shortageEvery {
		s.told = now
		s.log.Error("this host has no room for another connection; raise its limits (nofile, "+
			"net.ipv4.ip_local_port_range)", "to", to, "error", err)
	}
}

// noting has a listener's shortages noted.
type noting struct {
	net.Listener
	short *shortages
}

func (l noting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if isShortage(err) {
		l.short.note("client", err)
	}
	return c, err
}

// own is how many file descriptors the gateway needs beside those of connections.
const own = 64

// connectionsFor is how many connections of clients may be open with so many file
// descriptors: each needs another one to a replica.
func connectionsFor(files uint64, wanted int) int {
	if files >= uint64(2*wanted+own) {
		return wanted
	}
	return max(1, (int(files)-own)/2)
}

// fileLimit raises the limit of file descriptors as far as it may, and returns it.
func fileLimit() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1 << 20
	}
	if l.Cur < l.Max {
		raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			return l.Max
		}
	}
	return l.Cur
}
