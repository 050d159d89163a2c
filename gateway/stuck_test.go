package gateway_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const impatient = "listen {\n address = \"127.0.0.1:0\"\n write_timeout = \"200ms\"\n}\n"

// narrow connects to a gateway with a small window, so that little fills it.
func narrow(t *testing.T, g *running) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		failed := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		return errors.Join(failed, err)
	}}
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // only ends a test that hangs
	return c
}

// A connection is not held by a client that asks and asks and takes no answer, however
// short the answers are and whoever gives them.
func TestAClientThatReadsNoAnswerIsGivenUp(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>")
		if r.URL.Path == "/early" {
			for range 20 {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, strings.Repeat("a", 1500))
	})
	for name, one := range map[string]string{
		"short answers":       "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"informational ones":  "GET /early HTTP/1.1\r\nHost: x\r\n\r\n",
		"requests in chunks":  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
		"requests of old":     "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
		"refusals":            "GET / HTTP/1.1\r\nHost: other\r\n\r\n",
		"the list of models":  "GET /v1/models HTTP/1.1\r\nHost: models\r\n\r\n",
		"a body's permission": "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
	} {
		g := start(t, service("m", replicaBlock(replica, "", 1), "route {\n hosts = [\"x\"]\n}\nroute {\n hosts = [\"models\"]\n models = [\"a\", \"b\"]\n}")+impatient)
		c := narrow(t, g)
		if err := flood(c, one); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is held", name)
		}
		eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
		c.Close()
		if err := g.stop(); err != nil {
			t.Error(err)
		}
	}
}

// flood asks for one thing again and again, until the connection is closed.
func flood(c net.Conn, one string) error {
	many := []byte(strings.Repeat(one, 100))
	for {
		if _, err := c.Write(many); err != nil {
			return err
		}
	}
}

func TestAClientOfTLSThatReadsNoAnswerIsGivenUp(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("a", 1500)) })
	cert, key := certificate(t)
	secure := fmt.Sprintf("\n tls {\n cert_file = %q\n key_file = %q\n }\n}", cert, key)
	g := start(t, service("m", replicaBlock(replica, "", 1))+strings.Replace(impatient, "\n}", secure, 1))
	c := tls.Client(narrow(t, g), &tls.Config{InsecureSkipVerify: true})
	if err := flood(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is held")
	}
	eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
}

func TestATunnelThatNobodyTakesFromEnds(t *testing.T) {
	var open atomic.Bool
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		open.Store(true)
		for err == nil {
			err = c.Write(r.Context(), websocket.MessageBinary, make([]byte, 32<<10))
		}
	})
	g := start(t, service("m", replicaBlock(replica, "", 1))+impatient)
	c := narrow(t, g)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	eventually(t, "the tunnel is open", open.Load)
	eventually(t, "its slot is free", func() bool { return g.state(t, "m").busy() == 0 })
}

// over is a client of HTTP/2 that gives streams a window, and asks for one path on each.
func over(t *testing.T, c net.Conn, window uint32, streams int) *http2.Framer {
	t.Helper()
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	f.WriteWindowUpdate(0, 1<<30)
	var block strings.Builder
	fields := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		fields.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	for i := range streams {
		p := http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}
		if err := f.WriteHeaders(p); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// What the server keeps of a short answer it sends after the handler has returned.
func TestAStreamWithoutAWindowEnds(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("a", 1500)) })
	for name, route := range map[string]string{"an answer": "", "a refusal": "route {\n hosts = [\"y\"]\n}"} {
		g := start(t, service("m", replicaBlock(replica, "", 1), route)+impatient)
		f := over(t, narrow(t, g), 0, 1)
		for ended := false; !ended; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, ended = frame.(*http2.RSTStreamFrame)
		}
	}
}

func TestAConnectionOfHTTP2ThatNobodyReadsEnds(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) })
	// Where all streams end before the connection is stuck, it is idle.
	g := start(t, service("m", replicaBlock(replica, "", 100))+strings.Replace(impatient, "\n}", "\n idle_timeout = \"200ms\"\n}", 1))
	f := over(t, narrow(t, g), 1<<24, 20)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var err error
	for err == nil {
		<-tick.C
		err = f.WriteWindowUpdate(0, 1) // asks for no answer
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is held")
	}
	eventually(t, "the slots are free", func() bool { return g.state(t, "m").busy() == 0 })
}
