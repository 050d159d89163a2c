package front

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a connection on which a client's bytes arrive in pieces, followed by its end.
type script struct {
	mu     sync.Mutex
	text   []byte
	piece  int
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func newScript(text string, piece int) *script {
	return &script{text: []byte(text), piece: piece, closed: make(chan struct{})}
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (s *script) SetDeadline(t time.Time) error      { return nil }
func (s *script) SetReadDeadline(t time.Time) error  { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// handler answers in one of several ways and records the requests.
type handler struct {
	way  int
	seen []string // requests, in words
	asks []*http.Request
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := "unread", error(nil)
	if h.way&1 == 0 {
		var text []byte
		text, err = io.ReadAll(r.Body)
		body = string(text)
	}
	names := slices.Sorted(maps.Keys(r.Header))
	var header []string
	for _, name := range names {
		header = append(header, fmt.Sprintf("%q: %q", name, r.Header[name]))
	}
	h.seen = append(h.seen, fmt.Sprintf("%q %q %q %+v %s host %q length %d %v close %t header %v body %q %v trailer %v",
		r.Method, r.RequestURI, r.URL, *r.URL, r.Proto, r.Host, r.ContentLength, r.TransferEncoding, r.Close, header, body, err, r.Trailer))
	h.asks = append(h.asks, &http.Request{Method: r.Method})
	h.answer(w)
}

// answer gives one of several answers.
func (h *handler) answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Add("X-Two", "a")
	w.Header().Add("X-Two", "b\r\nX-Three: c")
	flush := func() { http.NewResponseController(w).Flush() }
	switch h.way >> 1 % 10 {
	case 0: // nothing: 200 without a body
	case 1:
		w.Header().Set("Content-Length", "4")
		io.WriteString(w, "done")
		flush()
	case 2:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "none")
	case 3:
		flush()
		io.WriteString(w, "one")
		flush()
		io.WriteString(w, strings.Repeat("two", 2000))
	case 4:
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "sum")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	case 5:
		w.WriteHeader(http.StatusNoContent)
	case 6:
		w.Header().Set("Content-Length", "400")
		w.WriteHeader(http.StatusNotModified)
	case 7:
		w.Header().Set("Link", "a")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Connection", "close")
		w.WriteHeader(499)
		io.WriteString(w, "closed")
	case 8:
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "short")
	case 9:
		io.WriteString(w, "half")
		flush()
		panic(http.ErrAbortHandler)
	}
}

// one is a listener with one connection.
type one struct {
	c    chan net.Conn
	done chan struct{}
}

func (o one) Accept() (net.Conn, error) {
	if c, ok := <-o.c; ok {
		return c, nil
	}
	<-o.done
	return nil, net.ErrClosed
}
func (o one) Close() error   { return nil }
func (o one) Addr() net.Addr { return &net.TCPAddr{} }

// byNetHTTP serves a connection to its end with net/http.
func byNetHTTP(h http.Handler, c net.Conn, closed chan struct{}) {
	s := &http.Server{Handler: h, ErrorLog: quiet, MaxHeaderBytes: 8 << 10, DisableGeneralOptionsHandler: true}
	l := one{make(chan net.Conn, 1), make(chan struct{})}
	l.c <- c
	close(l.c)
	go s.Serve(l)
	<-closed
	close(l.done)
	s.Close()
}

// byFront serves a connection with this package.
func byFront(h http.Handler, c *script) {
	s := &Server{Handler: h, Base: context.Background(), MaxHeaderBytes: 8 << 10, ErrorLog: quiet}
	own := s.newConn(c)
	defer own.left()
	if own.serve() {
		byNetHTTP(h, &resumed{c, bytes.Clone(own.buf[own.r:own.w])}, c.closed)
		return
	}
	c.Close()
}

// answered is a final answer, in words, with the informational ones before it.
type answered struct {
	text   string
	status int
	close  bool
}

// answers parses the answers to requests.
func answers(text []byte, asks []*http.Request) (all []answered) {
	in := bufio.NewReader(bytes.NewReader(text))
	before := ""
	for {
		r := &http.Request{Method: http.MethodGet}
		if i := len(all); i < len(asks) {
			r = asks[i]
		}
		res, err := http.ReadResponse(in, r)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(res.Body)
		delete(res.Header, "Date")
		delete(res.Header, "Connection") // res.Close has it
		before += fmt.Sprintf("%d %v length %d %v body %q %v trailer %v\n", res.StatusCode, res.Header, res.ContentLength, res.TransferEncoding, body, err, res.Trailer)
		if res.StatusCode >= 200 {
			all = append(all, answered{before, res.StatusCode, res.Close})
			before = ""
		}
	}
}

// This server reads the same requests from every connection as net/http, or fewer, and answers them
// in the same way.
func FuzzConnectionsAsNetHTTPServesThem(f *testing.F) {
	for i, text := range slices.Concat(plain, proper, refused) {
		for _, piece := range []uint16{0, 6, 4095} {
			f.Add(text, piece, uint8(i))
			f.Add(plain[0]+text+plain[1], piece, uint8(i+2))
			f.Add(plain[3]+text+plain[0], piece, uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, text string, piece uint16, way uint8) {
		synctest.Test(t, func(t *testing.T) { compare(t, text, int(piece)+1, int(way)) })
	})
}

// endsOfLines reports whether net/http skips line ends after the last request, as some old clients
// sent them.
func endsOfLines(h *handler) bool {
	return len(h.asks) > 0 && h.asks[len(h.asks)-1].Method == http.MethodPost
}

func compare(t *testing.T, text string, piece, way int) {
	own, other := &handler{way: way}, &handler{way: way}
	a, b := newScript(text, piece), newScript(text, piece)
	byFront(own, a)
	byNetHTTP(other, b, b.closed)
	synctest.Wait()
	if len(own.seen) > len(other.seen) {
		t.Fatalf("%d requests, by net/http %d: %q", len(own.seen), len(other.seen), own.seen[len(other.seen):])
	}
	for i, r := range own.seen {
		if r != other.seen[i] {
			t.Fatalf("request %d is\n%s\nby net/http\n%s", i, r, other.seen[i])
		}
	}
	ours, theirs := answers(a.out.Bytes(), own.asks), answers(b.out.Bytes(), other.asks)
	for i, r := range ours {
		switch {
		case i >= len(own.seen):
			if r.status < 400 {
				t.Fatalf("nobody asked for\n%s", r.text)
			}
		case i >= len(theirs) || r.text != theirs[i].text:
			t.Fatalf("answer %d is\n%s\nby net/http\n%v", i, r.text, theirs[min(i, len(theirs)):])
		case theirs[i].close && !r.close:
			t.Fatalf("answer %d does not say that the connection ends", i)
		}
	}
	if answered, asked := len(ours), len(own.seen); answered < asked && len(theirs) > answered {
		t.Fatalf("%d answers to %d requests, by net/http %d", answered, asked, len(theirs))
	}
	// Fewer requests are allowed only from an unread body's rest, from line ends between a POST and
	// the next request, and from an HTTP/2 preface on an HTTP/1 connection.
	if fewer := len(own.seen) < len(other.seen); fewer && way%2 == 0 && !endsOfLines(own) && !strings.Contains(text, "PRI ") {
		t.Fatalf("%d requests, by net/http %d: %q", len(own.seen), len(other.seen), other.seen[len(own.seen):])
	}
}
