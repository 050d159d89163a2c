package bulk

import (
	"crypto/tls"
	"net"
	"sync"
)

// Listen wraps a listener in TLS. Its connections send all records of one Write together:
// crypto/tls makes one system call per record, and a record has at most 16 KiB. The first Read does
// the handshake.
func Listen(l net.Listener, config *tls.Config) net.Listener { return listener{l, config} }

type listener struct {
	net.Listener
	config *tls.Config
}

// Accept waits for a connection.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	under := &bufferedConn{Conn: c}
	return &tlsConn{tls.Server(under, l.config), under}, nil
}

type tlsConn struct {
	*tls.Conn
	under *bufferedConn
}

// Write writes all records of p at once.
func (c *tlsConn) Write(p []byte) (int, error) {
	if err := c.Handshake(); err != nil { // its records are questions and answers
		return 0, err
	}
	c.under.hold()
	n, err := c.Conn.Write(p)
	if failed := c.under.release(); err == nil && failed != nil {
		return 0, failed
	}
	return n, err
}

// bufferedConn is a connection that can keep what is written until it is released.
type bufferedConn struct {
	net.Conn
	mu      sync.Mutex
	holders int
	records []byte
}

func (h *bufferedConn) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holders++
}

// Write keeps bytes while the connection is held, and otherwise writes them.
func (h *bufferedConn) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holders == 0 {
		return h.Conn.Write(p)
	}
	if h.records == nil {
		h.records = pieces.Get().(*[piece]byte)[:0]
	}
	if len(h.records)+len(p) > piece {
		if err := h.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > piece {
		return h.Conn.Write(p)
	}
	h.records = append(h.records, p...)
	return len(p), nil
}

// flush writes what was held back. The caller holds the lock.
func (h *bufferedConn) flush() error {
	_, err := h.Conn.Write(h.records)
	h.records = h.records[:0]
	return err
}

func (h *bufferedConn) release() (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holders--
	if len(h.records) > 0 {
		err = h.flush()
	}
	if h.records != nil && h.holders == 0 {
		pieces.Put((*[piece]byte)(h.records[:piece]))
		h.records = nil
	}
	return err
}
