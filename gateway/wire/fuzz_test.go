package wire

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"aliquot.example/gateway/socket"
)

// script is a connection on which a replica's bytes arrive in pieces.
type script struct {
	text  []byte
	piece int
	read  int
}

func (s *script) Read(p []byte) (int, error) {
	if s.read == len(s.text) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.text[s.read:])
	s.read += n
	return n, nil
}
func (s *script) Write(p []byte) (int, error)        { return len(p), nil }
func (s *script) Close() error                       { return nil }
func (s *script) LocalAddr() net.Addr                { return nil }
func (s *script) RemoteAddr() net.Addr               { return nil }
func (s *script) SetDeadline(t time.Time) error      { return nil }
func (s *script) SetReadDeadline(t time.Time) error  { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// outcome is how an answer was parsed.
type outcome struct {
	res      *http.Response
	body     []byte
	failed   error // of the header
	broken   error // of the body
	consumed int
	reused   bool
}

func ours(method string, text []byte, piece int) (o outcome) {
	t := &Transport{MaxHeaderBytes: 1 << 20}
	s := &script{text: text, piece: piece}
	c := newConn(t, s, "replica")
	c.socket = &socket.Socket{} // so that rest keeps the connection
	c.ctx, c.unwatch, c.reusable = context.Background(), func() bool { return true }, true
	if o.res, o.failed = c.receive(&http.Request{Method: method}); o.failed == nil {
		o.body, o.broken = io.ReadAll(o.res.Body)
	}
	o.consumed, o.reused = s.read, len(t.idle["replica"]) == 1
	t.CloseIdleConnections() // before anything uses the empty socket
	return o
}

func theirs(method string, text []byte) (o outcome) {
	r := bytes.NewReader(text)
	in := bufio.NewReader(r)
	for range 100 {
		if o.res, o.failed = http.ReadResponse(in, &http.Request{Method: method}); o.failed != nil {
			return o
		}
		if o.res.StatusCode >= 200 || o.res.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	o.body, o.broken = io.ReadAll(o.res.Body)
	o.consumed = len(text) - r.Len() - in.Buffered()
	return o
}

// This client parses every answer like net/http, or rejects it.
func FuzzAnswerAsNetHTTPReadsIt(f *testing.F) {
	for _, text := range slices.Concat(accepted, refused) {
		f.Add(text, uint8(0), uint16(4096))
		f.Add(text, uint8(1), uint16(1))
	}
	f.Fuzz(func(t *testing.T, text string, method uint8, piece uint16) {
		name := []string{"GET", "HEAD", "POST"}[method%3]
		own := ours(name, []byte(text), int(piece)+1)
		if own.failed != nil {
			return // stricter
		}
		other := theirs(name, []byte(text))
		if other.failed != nil {
			t.Fatalf("accepted, net/http says %v", other.failed)
		}
		a, b := own.res, other.res
		if b.Header.Get("Pragma") == "no-cache" && a.Header["Cache-Control"] == nil {
			delete(b.Header, "Cache-Control") // which net/http adds
		}
		if b.Close && b.Header["Connection"] == nil {
			delete(a.Header, "Connection") // which net/http removes if it says close
		}
		if a.StatusCode != b.StatusCode || a.Proto != b.Proto || a.ContentLength != b.ContentLength || b.Close && !a.Close ||
			!maps.EqualFunc(a.Header, b.Header, slices.Equal[[]string]) || !slices.Equal(a.TransferEncoding, b.TransferEncoding) {
			t.Fatalf("understood as %+v\nby net/http as %+v", a, b)
		}
		switch {
		case own.broken == nil:
			if other.broken != nil || !bytes.Equal(own.body, other.body) || !sameTrailer(a.Trailer, b.Trailer) {
				t.Fatalf("body %q, trailer %v\nby net/http %q %v, trailer %v", own.body, a.Trailer, other.body, other.broken, b.Trailer)
			}
		case other.broken == nil && !bytes.HasPrefix(other.body, own.body):
			t.Fatalf("body begins %q, by net/http %q", own.body, other.body)
		}
		if own.reused && (b.Close || own.consumed != other.consumed) {
			t.Fatalf("the connection is used again after %d bytes, by net/http after %d, closed: %t", own.consumed, other.consumed, b.Close)
		}
	})
}

func sameTrailer(a, b http.Header) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// net/http reads each written request as intended; other requests are not written.
func FuzzRequestAsNetHTTPReadsIt(f *testing.F) {
	f.Add("GET", "example.org", "/a?b", "X-Name", "value", "")
	f.Add("POST", "example.org:80", "/", "Accept", "a, b", "text")
	f.Add("GET", "a\r\nb", "/ x", "X: y", "a\r\n\r\nGET / HTTP/1.1", "")
	f.Add("G T", "[::1]", "*", "Transfer-Encoding", "chunked", "text")
	f.Fuzz(func(t *testing.T, method, host, target, name, value, text string) {
		u := &url.URL{Scheme: "http", Host: "replica", Opaque: target}
		if target == "" || strings.HasPrefix(target, "//") {
			u = &url.URL{Scheme: "http", Host: "replica", Path: target}
		}
		out := &http.Request{Method: method, Host: host, URL: u, Header: http.Header{name: {value}}}
		if text != "" {
			out.Body, out.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		}
		head, err := appendHead(nil, out)
		if err != nil {
			return
		}
		whole := append(head, text...)
		in := bufio.NewReader(bytes.NewReader(whole))
		got, err := http.ReadRequest(in)
		if err != nil {
			if _, unknown := url.ParseRequestURI(target); unknown != nil && target != "*" {
				return // a server refuses such a target, as net/http's client would send it too
			}
			t.Fatalf("%q: %v", whole, err)
		}
		body, err := io.ReadAll(got.Body)
		if err != nil || string(body) != text || in.Buffered() > 0 {
			t.Fatalf("%q: body %q, %v, %d bytes are left", whole, body, err, in.Buffered())
		}
		if wanted := method; got.Method != wanted && wanted != "" || got.RequestURI != u.RequestURI() {
			t.Fatalf("%q is read as %s %q", whole, got.Method, got.RequestURI)
		}
		if len(got.Header) > 2 { // the one that was set, and Content-Length
			t.Fatalf("%q has the header %v", whole, got.Header)
		}
	})
}
