package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/conn"
)

// slowBody fails if the client sends nothing for BodyTimeout. For a body of declared length, and
// while the gateway takes a body in before the request has a slot, it also fails if the mean rate
// after the first BodyTimeout is below conn.Slowest.
type slowBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration
	began   time.Time
	armed   time.Time
	got     int64
	floor   bool // enforce the mean rate
	each    bool // HTTP/2, where a deadline also acts while nothing is read

	mu      sync.Mutex
	aborted bool
}

// abort ends the current read and all later ones.
func (b *slowBody) abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aborted = true
	b.control.SetReadDeadline(time.Unix(1, 0))
}

// arm sets the read deadline, unless reading was aborted.
func (b *slowBody) arm(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.aborted {
		b.control.SetReadDeadline(t)
	}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.limit <= 0 {
		return b.ReadCloser.Read(p)
	}
	now := time.Now()
	if over := now.Sub(b.began) - b.limit; b.floor && over > 0 && b.got < int64(over.Seconds()*conn.Slowest) {
		return 0, os.ErrDeadlineExceeded
	}
	// Setting a deadline needs a lock of the poller, so set it only once per tenth of the limit.
	if b.each || now.Sub(b.armed) > b.limit/10 {
		b.armed = now
		b.arm(now.Add(b.limit))
	}
	n, err := b.ReadCloser.Read(p)
	b.got += int64(n)
	// After an error the deadline stays, because the server still drains the body.
	if err == io.EOF || b.each {
		b.arm(time.Time{})
	}
	return n, err
}

// progress writes an answer to the client and counts its bytes. It gives up on an HTTP/2 stream
// whose client reads nothing for the limit. Package conn does the same for whole connections.
type progress struct {
	http.ResponseWriter
	limit  time.Duration // for an HTTP/2 stream, 0 for none
	first  time.Time     // when the header was written
	status int
	bytes  int64
	tunnel *counted // the connection after Hijack
}

// Unwrap returns the server's own writer, for http.ResponseController.
func (p *progress) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *progress) started() bool { return p.status != 0 }

func (p *progress) begin(status int) {
	p.status, p.first = status, time.Now()
}

func (p *progress) WriteHeader(status int) {
	if p.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		p.begin(status)
	}
	p.ResponseWriter.WriteHeader(status)
}

// Hijack hands the connection over, for example for a WebSocket, and keeps counting its bytes.
func (p *progress) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(p.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	p.begin(http.StatusSwitchingProtocols)
	p.tunnel = &counted{Conn: c}
	return p.tunnel, rw, nil
}

// sent returns the number of bytes written.
func (p *progress) sent() int64 {
	if p.tunnel != nil {
		return p.bytes + p.tunnel.bytes.Load()
	}
	return p.bytes
}

// counted counts the bytes written to a hijacked connection.
type counted struct {
	net.Conn
	bytes atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// CloseWrite closes the write side of the connection, if it can.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// FlushError flushes the buffered data to the client.
func (p *progress) FlushError() error {
	p.arm()
	err := http.NewResponseController(p.ResponseWriter).Flush()
	p.disarm()
	return err
}

// last sets a deadline for the remaining data, which the server sends after the handler has returned.
func (p *progress) last() { p.arm() }

func (p *progress) Write(b []byte) (int, error) {
	if p.status == 0 {
		p.begin(http.StatusOK)
	}
	if p.limit > 0 {
		return p.writeStream(b)
	}
	n, err := p.ResponseWriter.Write(b)
	p.bytes += int64(n)
	return n, err
}

// piece is the size, in bytes, that a client must read within the limit.
const piece = 16 << 10

// writeStream writes to an HTTP/2 stream in pieces, each with its own deadline, so that a slow
// client does not count as stuck.
func (p *progress) writeStream(b []byte) (int, error) {
	done := 0
	for {
		p.arm()
		n, err := p.ResponseWriter.Write(b[done:min(len(b), done+piece)])
		p.disarm()
		done += n
		p.bytes += int64(n)
		if err != nil || done >= len(b) {
			return done, err
		}
	}
}

func (p *progress) arm() {
	if p.limit > 0 {
		http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(p.limit))
	}
}

// disarm removes the deadline, which would otherwise also act while nothing is written.
func (p *progress) disarm() {
	if p.limit > 0 {
		http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Time{})
	}
}
