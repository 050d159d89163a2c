package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// Plain makes the connections of a listener keep the headers of requests, of up to header bytes and
// a little more, for Smuggles.
func Plain(l net.Listener, header int) net.Listener { return plainListener{l, header} }

// plainListener makes connections without TLS keep headers.
type plainListener struct {
	net.Listener
	header int // longest header, in bytes
}

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newHeadConn(c, l.header), nil
}

// secureListener adds TLS. It does the handshake itself, so that HTTP/1.1 connections keep headers
// above TLS: net/http supports HTTP/2 only on a plain *tls.Conn.
type secureListener struct {
	net.Listener
	config  *tls.Config
	header  int
	timeout time.Duration // of the handshake
	shaken  chan accepted
	ended   context.Context
	end     context.CancelFunc
}

type accepted struct {
	conn net.Conn
	err  error
}

// Secure adds TLS to the connections of a listener. HTTP/1.1 connections keep headers as with
// Plain. timeout limits the handshake; 0 means no limit.
func Secure(l net.Listener, config *tls.Config, header int, timeout time.Duration) net.Listener {
	s := &secureListener{Listener: l, config: config, header: header, timeout: timeout, shaken: make(chan accepted)}
	s.ended, s.end = context.WithCancel(context.Background())
	go s.run()
	return s
}

func (l *secureListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.shaken:
		return a.conn, a.err
	case <-l.ended.Done():
		return nil, net.ErrClosed
	}
}

func (l *secureListener) Close() error {
	l.end()
	return l.Listener.Close()
}

// run accepts connections until the listener is closed. It does not spin on errors, because give
// blocks until the server accepts again.
func (l *secureListener) run() {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			go l.shake(c)
		} else if !l.give(accepted{nil, err}) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (l *secureListener) give(a accepted) bool {
	select {
	case l.shaken <- a:
		return true
	case <-l.ended.Done():
		return false
	}
}

func (l *secureListener) shake(c net.Conn) {
	secure := tls.Server(c, l.config)
	ctx, cancel := l.ended, context.CancelFunc(func() {})
	if l.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, l.timeout)
	}
	err := secure.HandshakeContext(ctx)
	cancel()
	if err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil {
			io.WriteString(plain.Conn,
				"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; "+
					"charset=utf-8\r\n\r\nthis port requires TLS: use https\n")
		}
		c.Close()
		return
	}
	var conn net.Conn = secure
	if secure.ConnectionState().NegotiatedProtocol != "h2" {
		conn = headTLSConn{newHeadConn(secure, l.header), secure}
	}
	if !l.give(accepted{conn, nil}) {
		conn.Close()
	}
}
