package wire

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/gateway/field"
)

// maxInline is the longest body that goes out with the header in one write, in bytes.
const maxInline = 64 << 10

// ErrRequest means that a request cannot be sent as it is. It does not count against the replica.
var ErrRequest = errors.New("the request cannot be sent")

// send starts to write the request. It writes the header, with a body that is complete and short,
// in one call that never waits, and leaves the rest to a goroutine. A replica may answer before it
// has read the whole request, so send must not wait for the replica to read.
func (c *conn) send(req *http.Request) error {
	head, err := appendHead(c.out[:0], req)
	if err != nil {
		closeBody(req)
		return err
	}
	c.out = head
	length := bodyLength(req)
	if length == 0 {
		closeBody(req)
		return c.begin(head)
	}
	if whole, ok := req.Body.(Whole); ok && whole.Whole() && length > 0 && length <= maxInline &&
		c.socket != nil && !expects(req) {
		all := slices.Grow(head, int(length))[:len(head)+int(length)]
		c.out = all
		err := readExactly(req.Body, all[len(head):])
		closeBody(req)
		if err != nil {
			c.fail(err)
			return err
		}
		return c.begin(all)
	}
	s := &sending{conn: c, body: req.Body, length: length, done: make(chan struct{})}
	if length < 0 {
		s.trailer = req.Trailer
	}
	if expects(req) {
		s.proceed = make(chan bool, 1)
	}
	if s.rest, err = c.first(head); err != nil {
		closeBody(req)
		return err
	}
	c.sending = s
	go s.run()
	return nil
}

// begin starts to write a request whose bytes are all there.
func (c *conn) begin(all []byte) error {
	rest, err := c.first(all)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		c.sending = &sending{conn: c, rest: rest, done: make(chan struct{})}
		go c.sending.run()
	} else if c.transport.HeaderTimeout > 0 {
		c.sent()
	}
	return nil
}

// first writes as much as it can without waiting and returns the rest. A connection that is not a
// socket takes everything.
func (c *conn) first(p []byte) ([]byte, error) {
	if c.socket == nil {
		c.wrote = true
		_, err := c.Conn.Write(p)
		return nil, err
	}
	n, err := c.socket.Offer(p)
	c.wrote = n > 0
	return p[n:], err
}

func expects(req *http.Request) bool {
	v := req.Header["Expect"]
	return len(v) > 0 && strings.EqualFold(v[0], "100-continue")
}

// bodyLength returns the length of the body, or -1 for a body that is sent in chunks.
func bodyLength(req *http.Request) int64 {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return 0
	case req.ContentLength > 0:
		return req.ContentLength
	}
	return -1
}

// readExactly reads a body into p, which must have the body's length.
func readExactly(body io.Reader, p []byte) error {
	if n, err := io.ReadFull(body, p); err != nil {
		if err == io.ErrUnexpectedEOF || err == io.EOF {
			return wrongLength(len(p), int64(n))
		}
		return err
	}
	return atEnd(body, int64(len(p)))
}

// atEnd returns an error if a body is longer than announced.
func atEnd(body io.Reader, length int64) error {
	var more [1]byte
	n, err := body.Read(more[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: its body is longer than the %d bytes announced", ErrRequest, length)
	case err == io.EOF || err == nil:
		return nil
	}
	return err
}

func wrongLength(announced int, n int64) error {
	return fmt.Errorf("%w: its body has %d of the %d bytes announced", ErrRequest, n, announced)
}

// appendHead appends a request's header. It rejects names and values that a reader could take for
// something else.
func appendHead(b []byte, req *http.Request) ([]byte, error) {
	method, host, target := req.Method, req.Host, req.URL.RequestURI()
	if method == "" {
		method = http.MethodGet
	}
	if host == "" {
		host = req.URL.Host
	}
	if !field.IsToken(method) || method == http.MethodConnect {
		return b, fmt.Errorf("%w: its method is %q", ErrRequest, method)
	}
	if !field.IsTarget(target) || !field.IsTarget(host) {
		return b, fmt.Errorf("%w: its host or target has a space or control character", ErrRequest)
	}
	b = append(append(b, method...), ' ')
	b = append(append(b, target...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, host...), "\r\n"...)
	var err error
	if b, err = appendFraming(b, req, method); err != nil {
		return b, err
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "User-Agent":
			if len(values) == 0 || values[0] == "" {
				continue
			}
		}
		if b, err = appendFields(b, name, values); err != nil {
			return b, err
		}
	}
	return append(b, "\r\n"...), nil
}

// appendFraming appends the fields that say where the body ends.
func appendFraming(b []byte, req *http.Request, method string) ([]byte, error) {
	switch length := bodyLength(req); {
	case length > 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), length, 10), "\r\n"...)
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(req.Trailer) > 0 {
			names := make([]string, 0, len(req.Trailer))
			for name := range req.Trailer {
				if !field.IsToken(name) || framing[http.CanonicalHeaderKey(name)] {
					return b, fmt.Errorf("%w: %q cannot be in a trailer", ErrRequest, name)
				}
				names = append(names, name)
			}
			slices.Sort(names)
			b = append(append(append(b, "Trailer: "...), strings.Join(names, ", ")...), "\r\n"...)
		}
	case method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	if req.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	return b, nil
}

// framing are the fields that determine where a message ends.
var framing = map[string]bool{"Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

func appendFields(b []byte, name string, values []string) ([]byte, error) {
	if !field.IsToken(name) {
		return b, fmt.Errorf("%w: %q is not a valid header name", ErrRequest, name)
	}
	for _, v := range values {
		if !field.IsValue(v) {
			return b, fmt.Errorf("%w: the header %s has a control character", ErrRequest, name)
		}
		b = append(append(append(b, name...), ": "...), v...)
		b = append(b, "\r\n"...)
	}
	return b, nil
}

// sending is the part of a request that a goroutine sends.
type sending struct {
	conn    *conn
	rest    []byte    // bytes that the first write left
	body    io.Reader // nil for none
	length  int64     // length of the body, -1 for chunks
	trailer http.Header
	proceed chan bool     // nil unless the body waits for "100 Continue"
	done    chan struct{} // closed at the end, after which err may be read
	err     error
}

var errNotWanted = errors.New("the replica answered without waiting for the body")

func (s *sending) run() {
	defer close(s.done)
	if closer, ok := s.body.(io.Closer); ok {
		defer closer.Close()
	}
	if s.err = s.all(); s.err == nil && s.conn.transport.HeaderTimeout > 0 {
		s.conn.sent()
	}
}

func (s *sending) all() error {
	if _, err := s.conn.Conn.Write(s.rest); err != nil || s.body == nil {
		return err
	}
	if s.proceed != nil {
		limit := time.NewTimer(s.conn.transport.ContinueTimeout)
		defer limit.Stop()
		select {
		case wanted := <-s.proceed:
			if !wanted {
				return errNotWanted
			}
		case <-limit.C:
		}
	}
	if s.length > 0 {
		return s.counted()
	}
	return s.chunked()
}

// refuse cancels a body that still waits for "100 Continue".
func (s *sending) refuse() { s.signal(false) }

func (s *sending) signal(wanted bool) {
	if s.proceed != nil {
		select {
		case s.proceed <- wanted:
		default:
		}
	}
}

// received handles an error of reading the body: the request cannot be completed.
func (s *sending) received(err error) error {
	s.conn.fail(err)
	return err
}

func (s *sending) counted() error {
	buf := make([]byte, min(s.length, 32<<10))
	for left := s.length; left > 0; {
		n, err := s.body.Read(buf[:min(left, int64(len(buf)))])
		if left -= int64(n); n > 0 {
			if _, failed := s.conn.Conn.Write(buf[:n]); failed != nil {
				return failed
			}
		}
		switch {
		case err == io.EOF && left > 0:
			return s.received(wrongLength(int(s.length), s.length-left))
		case err == io.EOF:
			return nil
		case err != nil:
			return s.received(err)
		}
	}
	if err := atEnd(s.body, s.length); err != nil {
		return s.received(err)
	}
	return nil
}

// chunkRoom is the space for a chunk's size before its data: eight digits and CR LF.
const chunkRoom = 10

func (s *sending) chunked() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.body.Read(buf[chunkRoom : len(buf)-2])
		if n > 0 {
			copy(buf, fmt.Appendf(nil, "%08x\r\n", n))
			copy(buf[chunkRoom+n:], "\r\n")
			if _, failed := s.conn.Conn.Write(buf[:chunkRoom+n+2]); failed != nil {
				return failed
			}
		}
		if err == io.EOF {
			return s.finish()
		}
		if err != nil {
			return s.received(err)
		}
	}
}

// finish sends the last chunk and the trailer, whose values are known by now.
func (s *sending) finish() error {
	b := []byte("0\r\n")
	for name, values := range s.trailer {
		if framing[http.CanonicalHeaderKey(name)] {
			continue
		}
		var err error
		if b, err = appendFields(b, name, values); err != nil {
			return s.received(err)
		}
	}
	_, err := s.conn.Conn.Write(append(b, "\r\n"...))
	return err
}
