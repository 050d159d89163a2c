package wire

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"testing"
)

var accepted = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200\r\nContent-Length:4 \r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n1;a=b\r\nd\r\n3\r\none\r\n000\r\nX-Sum: 1\r\nX-Late: 2\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\nto the end",
	"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ndone",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\ndone",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 400\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\nLink: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nframes",
	"HTTP/1.1 500 Oh no\r\nSet-Cookie: a\r\nset-cookie: b\r\nX-Empty:\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n",
}

// refused are answers that two readers could understand differently, or that are malformed.
var refused = []string{
	"",
	"\r\n",
	"HTTP/1.1 200 OK\r\n",
	"HTTP/1.1 200 OK\nContent-Length: 4\n\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\n\r\ndone",
	"HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 0\r\n\r\n",
	"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
	"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 +20 Sign\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 2000 Long\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 NUL\x00\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ndone!",
	"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 4_0\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\ndone",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n A: b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA\xe9: b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA: b\x00\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA: b\x7f\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 103 Hints\r\nContent-Length: 4\r\n\r\ndoneHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	chunked("+4\r\ndone\r\n0\r\n\r\n"),
	chunked("0x4\r\ndone\r\n0\r\n\r\n"),
	chunked("4\ndone\r\n0\r\n\r\n"),
	chunked("4\r\ndone\n0\r\n\r\n"),
	chunked("4\r\ndone!\r\n0\r\n\r\n"),
	chunked("4\r\ndone\r\n0\r\n\n"),
	chunked("4\r\ndone\r\n0\r\nA : b\r\n\r\n"),
	chunked("4\r\ndone\r\n0\r\n folded\r\n\r\n"),
	chunked("10000000000000004\r\ndone\r\n0\r\n\r\n"),
	chunked("\r\n"),
	chunked(";a\r\n\r\n"),
	chunked("4 x\r\ndone\r\n0\r\n\r\n"),
	chunked("4;\x00\r\ndone\r\n0\r\n\r\n"),
	chunked("4\r\ndone\r\n"),
	chunked("4\r\ndo"),
}

func chunked(rest string) string {
	return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rest
}

func TestAnswersThatAreUnderstood(t *testing.T) {
	type got struct {
		status  int
		body    string
		length  int64
		trailer http.Header
		reused  bool
	}
	want := []got{
		{200, "done", 4, nil, true},
		{200, "", 0, nil, true},
		{200, "done", 4, nil, true},
		{200, "done", -1, nil, true},
		{200, "done", -1, http.Header{"X-Sum": {"1"}, "X-Late": {"2"}}, true},
		{200, "to the end", -1, nil, false},
		{200, "done", 4, nil, false},
		{204, "", 0, nil, true},
		{204, "", 0, nil, false}, // followed by a body that this status cannot have
		{304, "", 0, nil, true},
		{200, "ok", 2, nil, true},
		{101, "", 0, nil, false},
		{500, "", 0, nil, false},
		{200, "x", 1, nil, false}, // followed by another answer without a request
	}
	for i, text := range accepted {
		for _, piece := range []int{1, 7, 4096} {
			o := ours("GET", []byte(text), piece)
			if o.failed != nil || o.broken != nil {
				t.Errorf("%q: %v, %v", text, o.failed, o.broken)
				continue
			}
			have := got{o.res.StatusCode, string(o.body), o.res.ContentLength, o.res.Trailer, o.reused}
			if piece < 4096 && i == len(accepted)-1 {
				have.reused = false // the excess is found before the next request
			}
			if !reflect.DeepEqual(have, want[i]) {
				t.Errorf("%q in pieces of %d: %+v, want %+v", text, piece, have, want[i])
			}
		}
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	for _, text := range refused {
		for _, piece := range []int{1, 4096} {
			switch o := ours("GET", []byte(text), piece); {
			case o.failed == nil && o.broken == nil:
				t.Errorf("%q is understood: %d %v %q", text, o.res.StatusCode, o.res.Header, o.body)
			case o.reused:
				t.Errorf("%q: the connection is kept", text)
			}
		}
	}
}

func TestTheAnswerToHEADHasNoBody(t *testing.T) {
	for _, framing := range []string{"Content-Length: 400", "Transfer-Encoding: chunked", "X-None: 1"} {
		o := ours("HEAD", []byte("HTTP/1.1 200 OK\r\n"+framing+"\r\n\r\n"), 4096)
		if o.failed != nil || o.broken != nil || len(o.body) != 0 || !o.reused {
			t.Errorf("%s: %+v", framing, o)
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	for _, text := range []string{"HTTP/1.1 200 OK\r\nA: ", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"} {
		endless := io.MultiReader(&script{text: []byte(text), piece: 4096}, zeros{})
		c := newConn(&Transport{MaxHeaderBytes: 64 << 10}, reader{&script{}, endless}, "replica")
		c.ctx, c.unwatch = t.Context(), func() bool { return true }
		res, err := c.receive(&http.Request{Method: "GET"})
		if err == nil {
			_, err = io.ReadAll(res.Body)
		}
		if !errors.Is(err, ErrMalformed) || len(c.buf) > 128<<10 {
			t.Errorf("%q: %v after %d bytes", text, err, len(c.buf))
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

type reader struct {
	*script
	r io.Reader
}

func (r reader) Read(p []byte) (int, error) { return r.r.Read(p) }
