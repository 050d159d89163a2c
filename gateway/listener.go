package gateway

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"sync"
)

// listener bounds the open connections of clients and keeps the raw header of the
// request that each is at.
type listener struct {
	*net.TCPListener
	room    chan struct{}
	closed  chan struct{}
	once    sync.Once
	longest int // header bytes kept
}

func newListener(l net.Listener, connections, header int) *listener {
	return &listener{TCPListener: l.(*net.TCPListener), room: make(chan struct{}, connections), closed: make(chan struct{}), longest: header}
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
type clientConn struct {
	*net.TCPConn
	listener *listener
	once     sync.Once
	mu       sync.Mutex
	head     []byte // what was read since the connection was last idle
}

func (c *clientConn) Close() error {
	c.once.Do(func() { <-c.listener.room })
	return c.TCPConn.Close()
}

var preface = []byte("PRI * HTTP/2.0")

func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.mu.Lock()
	if len(c.head) < c.listener.longest && !bytes.HasPrefix(c.head, preface) {
		c.head = append(c.head, p[:n]...)
	}
	c.mu.Unlock()
	return n, err
}

func (c *clientConn) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(c.head) > 4096 {
		c.head = nil
	}
	c.head = c.head[:0]
}

// twoLengths tells whether the header of the request that the connection is at
// has a Content-Length. The server drops that of a chunked request before any
// handler sees it; a request with both is the shape of request smuggling.
func (c *clientConn) twoLengths() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range bytes.Lines(c.head) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return false
		}
		name, _, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			return true
		}
	}
	return false
}

type connKey struct{}

// withConn lets a handler reach its connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*clientConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

func connState(c net.Conn, s http.ConnState) {
	if c, ok := c.(*clientConn); ok && s == http.StateIdle {
		c.idle()
	}
}

// smuggles tells whether a request has two lengths.
func smuggles(r *http.Request) bool {
	if len(r.TransferEncoding) == 0 || r.ProtoMajor != 1 {
		return false
	}
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	return ok && c.twoLengths()
}
