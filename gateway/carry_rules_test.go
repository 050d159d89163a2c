package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func unstarted(h http.HandlerFunc) *httptest.Server { return httptest.NewUnstartedServer(h) }

// An upgrade to HTTP/2, as the JDK's client and curl ask for it, would be a tunnel
// past the queue: the request is answered in HTTP/1.1.
func TestOnlyWebSocketsAreTunnelled(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, asked := range []string{
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
		"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
		"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
		"Connection: Upgrade\r\nUpgrade: websocket\r\n",
	} {
		address, got := rawReplica(t, answer)
		g := start(t, service("m", at(address)))
		c := g.dial(t, "POST / HTTP/1.1\r\nHost: x\r\n"+asked+"Content-Length: 5\r\n\r\nhello")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		r := <-got
		if res.StatusCode != 200 || r.ContentLength != 5 {
			t.Errorf("%q: %d, the replica got %d bytes", asked, res.StatusCode, r.ContentLength)
		}
		for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
			if v, ok := r.Header[name]; ok {
				t.Errorf("%q: the replica got %s: %q", asked, name, v)
			}
		}
	}
}

func TestEarlyAnswersCarryNothingOfTheirConnection(t *testing.T) {
	address, _ := rawReplica(t, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	g := start(t, service("m", at(address)))
	var early textproto.MIMEHeader
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error { early = h; return nil }}
	r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, g.url, nil)
	do(t, r)
	if len(early) != 1 || early.Get("Link") != "</a>" {
		t.Errorf("the early answer has %v", early)
	}
	c := g.dial(t, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
	if text, _ := io.ReadAll(c); strings.Contains(string(text), "103") || !strings.Contains(string(text), "200 OK") {
		t.Errorf("a client of HTTP/1.0 got %q", text)
	}
}

func TestAStatusThatIsNoneIsABrokenAnswer(t *testing.T) {
	address, _ := rawReplica(t, "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok")
	g := start(t, service("m", at(address)))
	if status, _, header := get(t, g.url); status != 502 || header.Get("X-Aliquot-Outcome") != "broken" {
		t.Errorf("%d %v", status, header)
	}
	if n := g.metric(t, `aliquot_gateway_requests_total{code="5xx",outcome="broken",service="m"}`); n != "1" {
		t.Errorf("counted %q times", n)
	}
}

func TestNothingIsAddedToAnAnswer(t *testing.T) {
	address, _ := rawReplica(t, "HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nX-Aliquot-Outcome: fake\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n6\r\n<html>\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n")
	g := start(t, service("m", at(address)))
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	for _, transport := range []*http.Transport{{}, {Protocols: h2}} {
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if v, ok := res.Header["Content-Type"]; ok || err != nil || string(body) != "<html>" {
			t.Errorf("%s: %q, %v, typed %q", res.Proto, body, err, v)
		}
		if v := res.Header.Get("X-Aliquot-Outcome"); v != "" {
			t.Errorf("%s: the replica gives itself the outcome %q", res.Proto, v)
		}
		if res.Trailer.Get("X-Sum") != "1" || res.Trailer.Get("Content-Length") != "" {
			t.Errorf("%s: trailer %v", res.Proto, res.Trailer)
		}
		transport.CloseIdleConnections()
	}
}

// gRPC-Web is ordinary HTTP, also over HTTP/2.
func TestGRPCWebReachesAReplicaOfHTTP1(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: h2}
	defer transport.CloseIdleConnections()
	r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("x"))
	r.Header.Set("Content-Type", "application/grpc-web+proto")
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "HTTP/1.1" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

func TestAWebSocketIsLoggedWithWhatItSent(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		c.Write(r.Context(), websocket.MessageText, []byte("hello"))
		c.Close(websocket.StatusNormalClosure, "")
	})
	path := filepath.Join(t.TempDir(), "access.log")
	g := start(t, fmt.Sprintf("access_log = %q\n", path)+service("m", replicaBlock(replica, "", 1)))
	c, _, err := websocket.Dial(t.Context(), strings.Replace(g.url, "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Read(t.Context())
	c.Read(t.Context())
	c.CloseNow()
	g.stop()
	text, _ := os.ReadFile(path)
	var line struct{ Status, Bytes int }
	if err := json.Unmarshal(text, &line); err != nil || line.Status != 101 || line.Bytes < 7 {
		t.Errorf("%s, %v", text, err)
	}
}

// A replica that goes away says which requests it did not begin (RFC 9113, 6.8).
func TestARequestThatAReplicaDidNotBeginIsRepeated(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go goingAway(c, conns.Add(1) == 1)
		}
	}()
	g := start(t, service("m", at(l.Addr().String()), "upstream {\n protocol = \"h2c\"\n}"))
	r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("hello"))
	if status, body, _ := do(t, r); status != 200 || body != "hello" || conns.Load() != 2 {
		t.Errorf("%d %q after %d connections", status, body, conns.Load())
	}
}

// Another replica gets such a request before the one that goes away.
func TestARequestThatWasNotBegunGoesElsewhere(t *testing.T) {
	replicas := [2]struct {
		net.Listener
		conns atomic.Int64
	}{}
	for i := range replicas {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		replicas[i].Listener = l
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				replicas[i].conns.Add(1)
				go goingAway(c, i == 0)
			}
		}()
	}
	fast := fmt.Sprintf("replica {\n address = %q\n weight = 100\n}\n", replicas[0].Addr())
	overHTTP2 := http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}}
	overHTTP2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	for kind, upstream := range map[string]string{"text/plain": "upstream {\n protocol = \"h2c\"\n}", "application/grpc": ""} {
		replicas[0].conns.Store(0)
		replicas[1].conns.Store(0)
		g := start(t, service("m", fast, at(replicas[1].Addr().String()), upstream))
		res, err := overHTTP2.Post(g.url, kind, strings.NewReader("\x00\x00\x00\x00\x05hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if first, second := replicas[0].conns.Load(), replicas[1].conns.Load(); res.StatusCode != 200 || string(body) != "hello" || first != 1 || second != 1 {
			t.Errorf("%s: %d %q, %v after %d and %d connections, want one each", kind, res.StatusCode, body, err, first, second)
		}
	}
}

// goingAway serves one stream of HTTP/2, or says that it did not begin with any.
func goingAway(c net.Conn, away bool) {
	defer c.Close()
	io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
	f := http2.NewFramer(c, c)
	f.WriteSettings()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			if away {
				f.WriteGoAway(0, http2.ErrCodeNo, nil)
			}
		case *http2.DataFrame:
			if away || !frame.StreamEnded() {
				continue
			}
			var block strings.Builder
			hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: []byte(block.String()), EndHeaders: true})
			f.WriteData(frame.StreamID, true, []byte("hello"))
		}
	}
}
