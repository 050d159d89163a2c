package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"aliquot.example/gateway/socket"
)

// conn is a connection to a replica, which carries one exchange at a time.
type conn struct {
	net.Conn
	transport *Transport
	address   string
	socket    *socket.Socket // nil if Conn is not a TCP connection
	in        io.Reader      // the socket, or Conn
	since     time.Time      // start of the idle time

	buf   []byte // buf[r:w] is received but not yet consumed
	r, w  int
	lines lines
	out   []byte // the request's header, and a short body

	// State of the current exchange:
	ctx         context.Context
	unwatch     func() bool
	cut         func() // c.cutOff, made once
	sending     *sending
	wrote       bool // part of the request was written to the socket
	answerBegun bool // part of an answer was received
	reusable    bool

	mu     sync.Mutex
	ended  bool  // the exchange was cut off: do not change the deadlines
	headed bool  // the answer's header has been received
	broken error // error while receiving the request's body
}

// bufferSize fits the header of an answer, or many small chunks.
const bufferSize = 4 << 10

func newConn(t *Transport, nc net.Conn, address string) *conn {
	c := &conn{Conn: nc, transport: t, address: address, in: nc, buf: make([]byte, bufferSize)}
	if tcp, ok := nc.(*net.TCPConn); ok {
		c.socket = socket.Of(tcp)
		c.in = c.socket
	}
	c.cut = c.cutOff
	return c
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// cutOff makes all reads and writes fail.
func (c *conn) cutOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.Conn.SetDeadline(past)
}

// fail cuts off the exchange because its request cannot be completed.
func (c *conn) fail(err error) {
	c.mu.Lock()
	c.broken = err
	c.mu.Unlock()
	c.cutOff()
}

// sent starts the timeout for the answer's header.
func (c *conn) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && !c.headed {
		c.Conn.SetReadDeadline(time.Now().Add(c.transport.HeaderTimeout))
	}
}

// arrived stops the timeout that sent started.
func (c *conn) arrived() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headed = true
	if !c.ended && c.transport.HeaderTimeout > 0 {
		c.Conn.SetReadDeadline(time.Time{})
	}
}

// reason returns why an exchange failed: the context's cause or the failure of the request's body,
// rather than the connection error that they led to.
func (c *conn) reason(err error) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	return err
}

// exchange sends a request and receives the header of its answer. On error it closes the
// connection.
func (c *conn) exchange(req *http.Request) (*http.Response, error) {
	c.ctx = req.Context()
	c.wrote, c.answerBegun, c.reusable, c.headed, c.sending = false, false, !req.Close, false, nil
	c.unwatch = context.AfterFunc(c.ctx, c.cut)
	err := c.send(req)
	var res *http.Response
	if err == nil {
		res, err = c.receive(req)
	}
	if err != nil {
		err = c.reason(err)
		c.drop()
		return nil, err
	}
	return res, nil
}

// repeats reports whether a request that failed on a reused connection may be sent again: none of
// it was written, or it may reach a replica twice and no answer began.
func (c *conn) repeats(req *http.Request, err error) bool {
	var late net.Error
	if c.answerBegun || req.Context().Err() != nil || errors.As(err, &late) && late.Timeout() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken == nil && !errors.Is(err, ErrRequest) && (!c.wrote || repeatable(req))
}

// drop closes the connection.
func (c *conn) drop() {
	c.unwatch()
	c.Conn.Close()
	if c.sending != nil {
		c.sending.refuse()
	}
}

// maxSendWait is how long to keep a connection after a complete answer for the rest of the request
// to be sent, which may end a moment later.
const maxSendWait = 50 * time.Millisecond

// done returns the connection to the pool after a complete answer, or closes it.
func (c *conn) done() {
	if !c.unwatch() || !c.reusable || c.r != c.w {
		c.drop()
		return
	}
	if s := c.sending; s != nil {
		select {
		case <-s.done:
			if s.err != nil {
				c.drop()
				return
			}
		default:
			go c.await(s)
			return
		}
	}
	c.rest()
}

func (c *conn) await(s *sending) {
	limit := time.NewTimer(maxSendWait)
	defer limit.Stop()
	select {
	case <-s.done:
		if s.err == nil {
			c.rest()
			return
		}
	case <-limit.C:
	}
	c.drop()
}

// rest returns the connection to the pool without any state of the exchange.
//
// It closes a connection that is not a TCP socket, because it could not check whether the
// connection is still open before the next request.
func (c *conn) rest() {
	if c.socket == nil {
		c.drop()
		return
	}
	c.ctx, c.unwatch, c.sending = nil, nil, nil
	c.r, c.w = 0, 0
	if len(c.buf) > 16*bufferSize {
		c.buf = make([]byte, bufferSize)
	}
	if cap(c.out) > 4*bufferSize {
		c.out = nil
	}
	c.transport.put(c)
}

// fill reads more into the buffer, which grows up to limit.
func (c *conn) fill(limit int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		switch {
		case c.r > 0:
			copy(c.buf, c.buf[c.r:c.w])
			c.r, c.w = 0, c.w-c.r
		case len(c.buf) >= limit:
			return errTooLarge
		default:
			grown := make([]byte, min(2*len(c.buf), limit))
			copy(grown, c.buf)
			c.buf = grown
		}
	}
	n, err := c.read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (c *conn) read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if n > 0 {
		c.answerBegun = true
	}
	return n, err
}
