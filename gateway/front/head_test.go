package front

import (
	"context"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

var quiet = log.New(io.Discard, "", 0)

// plain are heads that this package serves.
var plain = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a%2Fb?x=1;y=2&z HTTP/1.1\r\nhost: models.example.org:8080\r\nUser-Agent: a\r\nAccept: */*\r\n\r\n",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]:80\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
	"POST /a HTTP/1.1\r\nHost: x\r\ncontent-length:0\r\n\r\n",
	"HEAD /a HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nX-Many: a\r\nX-Many: b\r\n\r\n",
	"GET //a//b HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\nConnection: keep-alive, TE\r\n\r\n",
	"DELETE /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
	"m-search /a HTTP/1.1\r\nHost:\t x \t\r\nX:\tb c\xe9\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /after HTTP/1.1\r\nHost: x\r\n\r\n",
	"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0000000000000003\r\nCookie: a=b\r\n\r\nabc",
}

// proper are valid heads that net/http must serve.
var proper = []string{
	"GET / HTTP/1.0\r\n\r\n",
	"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
	"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a HTTP/1.1\nHost: x\n\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1;a=b\r\nh\r\n0\r\nX-Sum: 1\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX-Folded: a\r\n b\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nConnection: a close\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: a&b\r\n\r\n",
	"GET /a?\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 9<<10) + "\r\n\r\n",
	"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
}

// refused are heads that two readers could understand differently, or that are not requests.
// net/http rejects most of them (RFC 9112, 2.2, 3, 5, 6.3 and 11.2).
var refused = []string{
	"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
	"GET / a HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
	"GET / http/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
	"GET /\r\nHost: x\r\n\r\n",
	"G=T / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET a HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a HTTP/1.1\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n",
	"GET /a HTTP/1.1\r\n Host: x\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost : x\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX: a\x7f\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX\xe9: a\r\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\r\nX: a\n\r\n",
	"GET /a HTTP/1.1\r\nHost: x\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n",
	"POST /a HTTP/1.0\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 6\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6, 6\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +6\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: -6\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x6\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6_0\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6 0\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nabcdef",
	"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 6\r\n\r\nabcdef",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"GET / HTTP/1.1\r\nHost: x\r\n",
	"GET",
}

// parsed parses one complete head on a new connection.
func parsed(text string) (*conn, bool) {
	s := &Server{Base: context.Background(), MaxHeaderBytes: 8 << 10}
	c := s.newConn(newScript(text, len(text)))
	head, came := c.head()
	return c, came && c.parse(head)
}

func TestPlainRequestsAreServed(t *testing.T) {
	for _, text := range plain {
		if _, ok := parsed(text); !ok {
			t.Errorf("%q is handed over", text)
		}
	}
}

func TestEverythingElseIsHandedOver(t *testing.T) {
	for _, text := range append(proper, refused...) {
		c, ok := parsed(text)
		if ok {
			t.Errorf("%.200q is served as %.400v", text, c.request)
		}
		if rest := string(c.buf[c.r:c.w]); !strings.HasPrefix(text, rest) || len(rest) < min(len(text), 8<<10) {
			t.Errorf("of %.200q %.200q is handed over", text, rest)
		}
	}
}

// A head that cannot be plain is handed over before its end, which may never come.
func TestAnOddHeadIsNotWaitedFor(t *testing.T) {
	for _, text := range []string{"\r\n", "GET / HTTP/1.1\nHost", "GET / HTTP/1.0\r\n", "GET /\r\n", "PRI * HTTP/2.0", "\x16\x03\x01", "GET / HTTP/1.1\r\nHost: x\nA"} {
		synctest.Test(t, func(t *testing.T) {
			c := (&Server{Base: context.Background(), MaxHeaderBytes: 8 << 10}).newConn(newScript(text, 1))
			c.nc.(*script).text = append([]byte(text), make([]byte, 100)...)
			c.nc.(*script).piece = len(text)
			if head, came := c.head(); !came || head != nil || c.w != len(text) {
				t.Errorf("%q: %q, %t after %d bytes", text, head, came, c.w)
			}
		})
	}
}

// A connection keeps the lines of its last request; they must not leak into another request.
func TestRequestsOfAConnectionDoNotMix(t *testing.T) {
	text := "GET /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-B: 1\r\n\r\n" +
		"GET /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\n\r\n" +
		"GET /a?c HTTP/1.1\r\nX-B: 1\r\nHost: x\r\nX-A: 1\r\n\r\n"
	want := []string{"/a?b [1] [1]", "/a?b [1 3] [2]", "/a?c [1] [1]"}
	s := &Server{Base: context.Background(), MaxHeaderBytes: 8 << 10}
	var headers []http.Header
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header)
		got := r.URL.String() + " [" + strings.Join(r.Header["X-A"], " ") + "] [" + strings.Join(r.Header["X-B"], " ") + "]"
		if n := len(headers) - 1; n >= len(want) || got != want[n] {
			t.Errorf("request %d is %s", n, got)
		}
		r.URL.Path = "/changed"
	})
	c := s.newConn(newScript(text, 4096))
	if c.serve() || len(headers) != 3 {
		t.Errorf("%d requests", len(headers))
	}
	if len(headers[0]["X-A"]) != 1 {
		t.Errorf("the first header became %v", headers[0])
	}
}
