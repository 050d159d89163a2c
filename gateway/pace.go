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

// slowBody gives up on a client that sends nothing of its body for a while, or after
// the first BodyTimeout less than conn.Slowest of one that is taken in or of declared
// length.
type slowBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration
	began   time.Time
	armed   time.Time
	got     int64
	floor   bool // a mean rate is demanded
	each    bool // HTTP/2, where a deadline acts also while nothing is read

	mu      sync.Mutex
	aborted bool
}

// abort ends a read that is under way, and all that follow.
func (b *slowBody) abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aborted = true
	b.control.SetReadDeadline(time.Unix(1, 0))
}

// arm sets the deadline of what is read, unless reading was aborted in between.
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
	// Setting a deadline costs a lock of the poller; once per tenth of the limit is
	// exact enough.
	if b.each || now.Sub(b.armed) > b.limit/10 {
		b.armed = now
		b.arm(now.Add(b.limit))
	}
	n, err := b.ReadCloser.Read(p)
	b.got += int64(n)
	// After an error the deadline stays: the server still drains what it can.
	if err == io.EOF || b.each {
		b.arm(time.Time{})
	}
	return n, err
}

// progress is the client's side of an answer: it counts, and gives up on a stream of
// HTTP/2 whose client takes nothing for a while. That a connection as a whole makes
// progress is package conn's to see to.
type progress struct {
	http.ResponseWriter
	limit  time.Duration // of a stream of HTTP/2; 0 for no bound
	first  time.Time     // when the header was written
	status int
	bytes  int64
	tunnel *counted // the connection, when it was handed over
}

// Unwrap lets http.ResponseController reach the server's own writer.
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

// Hijack hands the connection over, as for a WebSocket, and goes on counting.
func (p *progress) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(p.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	p.begin(http.StatusSwitchingProtocols)
	p.tunnel = &counted{Conn: c}
	return p.tunnel, rw, nil
}

// sent is how many bytes of an answer were written.
func (p *progress) sent() int64 {
	if p.tunnel != nil {
		return p.bytes + p.tunnel.bytes.Load()
	}
	return p.bytes
}

// counted counts what is written to a connection that was handed over.
type counted struct {
	net.Conn
	bytes atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// CloseWrite is that of the connection.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// FlushError sends what was written.
func (p *progress) FlushError() error {
	p.arm()
	err := http.NewResponseController(p.ResponseWriter).Flush()
	p.disarm()
	return err
}

// last gives the stream a time for what the server has not sent yet: it does so, and waits
// for the client to take it, when the handler has returned.
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

// piece is how much of a stream's answer must be taken within the limit, in bytes.
const piece = 16 << 10

// writeStream writes to a stream of HTTP/2, whose deadline is for one write: in pieces,
// each with a deadline of its own, so that a slow client is not taken for a stuck one.
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

// disarm leaves no deadline behind, which would act also while nothing is written.
func (p *progress) disarm() {
	if p.limit > 0 {
		http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Time{})
	}
}
