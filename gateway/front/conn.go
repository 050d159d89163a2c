package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/field"
)

// The states of a connection.
const (
	fresh  = iota // nothing received yet
	idle          // between two requests
	active        // from the first byte of a request to the end of its answer
	ended         // being closed, or handed over
)

// conn is a client connection.
type conn struct {
	server *Server
	nc     net.Conn
	remote string
	state  atomic.Int32
	ctx    context.Context // of all requests; ends when the client closes the connection
	left   context.CancelFunc

	buf   []byte // buf[r:w] is received but not yet consumed
	r, w  int
	lines field.Lines
	first struct { // line of the last request, which the next one often repeats
		text, method, target string
		url                  url.URL
	}
	request http.Request // the last one, without its context
	answer  *answer      // to the last request; nil before the first
}

// bufferSize fits a request's head and a short body.
const bufferSize = 4 << 10

// maxBuffered bounds a head that this package parses, in bytes; a longer one is handed over.
const maxBuffered = 16 << 10

func (s *Server) newConn(nc net.Conn) *conn {
	c := &conn{server: s, nc: nc, buf: make([]byte, bufferSize)}
	if a := nc.RemoteAddr(); a != nil {
		c.remote = a.String()
	}
	c.ctx, c.left = context.WithCancel(s.Base)
	return c
}

// run serves a connection to its end.
func (c *conn) run() {
	s := c.server
	s.add(c)
	token, err := s.leaving.add(c)
	if err != nil {
		// It is not a socket, or the kernel cannot watch another one.
		s.remove(c)
		c.left()
		s.handedOver.give(c.nc)
		return
	}
	defer func() {
		s.leaving.forget(token)
		s.remove(c)
		c.left()
	}()
	if c.serve() {
		c.nc.SetReadDeadline(time.Time{})
		s.handedOver.give(&resumed{c.nc, bytes.Clone(c.buf[c.r:c.w])})
		return
	}
	c.nc.Close()
}

// serve handles requests until the connection is to be closed or handed over.
func (c *conn) serve() (handOver bool) {
	for {
		text, came := c.head()
		if !came {
			return false
		}
		if !c.parse(text) {
			// An HTTP/2 preface is handed over only at the start of a connection.
			return c.answer == nil || !bytes.HasPrefix(c.buf[c.r:c.w], []byte("PRI "))
		}
		c.r += len(text)
		if !c.handle() || c.server.closing.Load() {
			return false
		}
	}
}

// head receives the next head up to its empty line. The text is nil if the head is not plain; what
// was received stays in the buffer. came is false if the connection ended or timed out before a
// head.
func (c *conn) head() (text []byte, came bool) {
	c.state.CompareAndSwap(active, idle)
	limit := min(maxBuffered, c.server.MaxHeaderBytes)
	at, hurried := 0, c.state.Load() == fresh
	for {
		text := c.buf[c.r:c.w]
		if len(text) > 0 && c.state.Load() != active && !c.begin() {
			return nil, false
		}
		if end := bytes.Index(text[at:], headEnd); end >= 0 {
			text = text[:at+end+len(headEnd)]
			if len(text) > limit {
				text = nil
			}
			return text, true
		}
		if len(text) >= limit || !c.mayBePlain(text, at) {
			return nil, true
		}
		at = max(0, len(text)-len(headEnd)+1)
		switch {
		case len(text) == 0:
			c.await()
		case !hurried:
			hurried = true
			c.deadline(c.server.HeaderTimeout)
		}
		if err := c.fill(limit); err != nil {
			// Let net/http answer a truncated head.
			return nil, errors.Is(err, io.EOF) && c.r < c.w
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// mayBePlain reports whether text can be the start of a plain head, so that the server does not
// wait for an end that may never come. text[:at] was checked before.
func (c *conn) mayBePlain(text []byte, at int) bool {
	if len(text) == 0 {
		return true
	}
	for i, b := range text[at:] {
		if b == '\n' && (at+i == 0 || text[at+i-1] != '\r') {
			return false
		}
	}
	if end := bytes.IndexByte(text, '\n'); end > 0 {
		return c.parseFirst(text[:end-1])
	}
	return field.IsToken(text[:1]) && !bytes.HasPrefix(text, []byte("PRI "))
}

// begin marks the start of a request. It returns false if the connection is being closed.
func (c *conn) begin() bool {
	return c.state.CompareAndSwap(idle, active) || c.state.CompareAndSwap(fresh, active)
}

// await sets the deadline for the next request.
func (c *conn) await() {
	if c.state.Load() == fresh {
		c.deadline(c.server.HeaderTimeout)
	} else {
		c.deadline(c.server.IdleTimeout)
	}
}

func (c *conn) deadline(d time.Duration) {
	at := time.Time{}
	if d > 0 {
		at = time.Now().Add(d)
	}
	c.nc.SetReadDeadline(at)
}

// fill reads more into the buffer, which grows up to limit.
func (c *conn) fill(limit int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if len(c.buf) > bufferSize {
			c.buf = make([]byte, bufferSize)
		}
	}
	if c.w == len(c.buf) {
		if c.r > 0 {
			copy(c.buf, c.buf[c.r:c.w])
			c.r, c.w = 0, c.w-c.r
		} else {
			grown := make([]byte, max(bufferSize, min(2*len(c.buf), limit+bufferSize)))
			copy(grown, c.buf)
			c.buf = grown
		}
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// handle handles one request and reports whether another may follow.
func (c *conn) handle() (again bool) {
	r := c.request.WithContext(c.ctx)
	a := &answer{conn: c, request: r, header: make(http.Header, 8), length: -1}
	c.answer = a
	if r.ContentLength > 0 {
		c.deadline(0)
		a.body = &body{conn: c, left: r.ContentLength}
		r.Body = a.body
	}
	if !c.call(a, r) {
		a.abort()
		return false
	}
	whole := a.body.end()
	a.finish(whole)
	if a.failed != nil {
		return false
	}
	if !whole {
		c.linger()
		return false
	}
	return !a.close
}

// call runs the handler. It returns false if the handler panicked, which closes the connection.
func (c *conn) call(a *answer, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				c.server.logf("http: panic serving %v: %v\n%s", c.remote, p, debug.Stack())
			}
			ok = false
		}
	}()
	c.server.Handler.ServeHTTP(a, r)
	return true
}

// Bounds on reading a body that the handler did not want.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// linger lets the client read its answer while it still sends. Closing a connection with unread
// bytes resets it, and the client could lose the answer.
func (c *conn) linger() {
	if closeWrite(c.nc) != nil {
		return
	}
	c.deadline(lingerTime)
	io.CopyN(io.Discard, c.nc, lingerBytes)
}
