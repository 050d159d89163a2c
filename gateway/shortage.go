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

// isShortage reports whether an error is a lack of resources on this host, which says nothing about
// the other host.
func isShortage(err error) bool {
	for _, number := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS,
		syscall.ENOMEM} {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

// shortages counts the connections that this host refused, and logs them at most every shortageLogInterval.
type shortages struct {
	counts *prometheus.CounterVec
	log    *slog.Logger
	mu     sync.Mutex
	logged time.Time
}

// shortageLogInterval is the shortest time between two log lines about shortages.
const shortageLogInterval = 10 * time.Second

func (s *shortages) note(to string, err error) {
	s.counts.WithLabelValues(to).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.logged) > shortageLogInterval {
		s.logged = now
		s.log.Error("this host cannot open another connection; raise its limits (nofile, "+
			"net.ipv4.ip_local_port_range)", "to", to, "error", err)
	}
}

// shortageListener is a listener that reports its shortages.
type shortageListener struct {
	net.Listener
	short *shortages
}

func (l shortageListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if isShortage(err) {
		l.short.note("client", err)
	}
	return c, err
}

// reservedFiles is the number of file descriptors that the gateway needs besides those of connections.
const reservedFiles = 64

// connectionsFor returns the number of client connections for a limit of file descriptors, at most
// wanted. Each needs another connection to a replica.
func connectionsFor(files uint64, wanted int) int {
	if files >= uint64(2*wanted+reservedFiles) {
		return wanted
	}
	return max(1, (int(files)-reservedFiles)/2)
}

// fileLimit raises the limit of file descriptors to the allowed maximum, and returns it.
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
