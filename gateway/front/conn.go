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

// What a connection is at.
const (
	fresh  = iota // nothing came yet
	idle          // between two requests
	active        // from the first byte of a request to the end of its answer
	ended         // it is being closed, or was handed over
)

// conn is a client's connection.
type conn struct {
	server *Server
	nc     net.Conn
	remote string
	state  atomic.Int32
	ctx    context.Context // of all requests; ends when the client has left
	left   context.CancelFunc

	buf   []byte // buf[r:w] was received and not yet used
	r, w  int
	lines field.Lines
	first struct { // line of the last request
		text, method, target string
		url                  url.URL
	}
	request http.Request // the last, without its context
	answer  *answer      // to it; nil before the first
}

// bufferSize is for the head of a request, and short bodies.
const bufferSize = 4 << 10

// mostBuffered bounds a head that is not handed over.
const mostBuffered = 16 << 10

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
		// It is no socket, or the kernel watches no more of them.
		s.remove(c)
		c.left()
		s.handed.give(c.nc)
		return
	}
	defer func() {
		s.leaving.forget(token)
		s.remove(c)
		c.left()
	}()
	if c.serve() {
		c.nc.SetReadDeadline(time.Time{})
		s.handed.give(&resumed{c.nc, bytes.Clone(c.buf[c.r:c.w])})
		return
	}
	c.nc.Close()
}

// serve serves requests until the connection is to be closed, or handed over.
func (c *conn) serve() (handOver bool) {
	for {
		text, came := c.head()
		if !came {
			return false
		}
		if !c.parse(text) {
			// A connection of HTTP/2 begins as one.
			return c.answer == nil || !bytes.HasPrefix(c.buf[c.r:c.w], []byte("PRI "))
		}
		c.r += len(text)
		if !c.handle() || c.server.closing.Load() {
			return false
		}
	}
}

// head receives the next head up to its empty line; nil for one that is not plain, as far
// as it came. False where the connection has ended before, or its time is up.
func (c *conn) head() (text []byte, came bool) {
	c.state.CompareAndSwap(active, idle)
	limit := min(mostBuffered, c.server.MaxHeaderBytes)
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
			// Half of a head is net/http's to answer.
			return nil, errors.Is(err, io.EOF) && c.r < c.w
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// mayBePlain reports whether a part of a head can be that of a plain one, so that nothing
// waits for an end that may not come. It was plain up to its byte at.
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

// begin notes that a request has begun; false where the connection is being closed.
func (c *conn) begin() bool {
	return c.state.CompareAndSwap(idle, active) || c.state.CompareAndSwap(fresh, active)
}

// await sets the time for which a connection may be without a request.
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

// fill receives more behind what is buffered; the buffer grows up to limit.
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

// handle serves one request and reports whether another may follow.
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

// call runs the handler; false where it panicked, which ends the connection.
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

// Bounds of what is read of a body that nobody wanted.
const (
	lingerFor  = 500 * time.Millisecond
	lingerOver = 256 << 10
)

// linger lets the client read its answer while it still sends: closing a connection with
// unread bytes would take the answer away.
func (c *conn) linger() {
	if closeWrite(c.nc) != nil {
		return
	}
	c.deadline(lingerFor)
	io.CopyN(io.Discard, c.nc, lingerOver)
}
