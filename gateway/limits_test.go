package gateway_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// raw sends text and returns the status line of each answer until the gateway
// closes the connection.
func (r *running) raw(t *testing.T, text string) []string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r.secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, text)
	in := bufio.NewReader(c)
	var got []string
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return got
		}
		io.Copy(io.Discard, res.Body)
		got = append(got, fmt.Sprint(res.StatusCode))
	}
}

func TestSmugglingShapedRequestsAreRefused(t *testing.T) {
	var seen atomic.Int64
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen.Add(1)
	})
	cert, key := certificate(t)
	plain := start(t, service("m", replicaBlock(replica, "", 1)))
	secure := start(t, service("m", replicaBlock(replica, "", 1))+fmt.Sprintf("listen {\n address = \"127.0.0.1:0\"\n tls {\n cert_file = %q\n key_file = %q\n}\n}\n", cert, key))
	secure.secure = true
	const next = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, text := range map[string]string{
		"both lengths":                "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next,
		"both lengths, other order":   "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n" + next,
		"a coding in HTTP/1.0":        "POST /a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next,
		"two lengths":                 "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 6\r\n\r\n" + next,
		"length with a sign":          "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +6\r\n\r\n" + next,
		"unknown coding":              "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n" + next,
		"coding twice":                "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + next,
		"space before the colon":      "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 6\r\n\r\n" + next,
		"two hosts":                   "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + next,
		"no host":                     "GET /a HTTP/1.1\r\n\r\n" + next,
		"a path that climbs":          "GET /a/../b HTTP/1.1\r\nHost: x\r\n\r\n" + next,
		"an encoded path that climbs": "GET /a/%2e%2e/b HTTP/1.1\r\nHost: x\r\n\r\n" + next,
		"a forward proxy's request":   "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + next,
		"a line feed in a header":     "GET /a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n" + next,
	} {
		// Alone, and behind a proper request that comes in the same packet.
		for before, proper := range map[string]string{
			"":             "",
			"a GET":        "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
			"a body":       "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
			"chunks":       "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"a bare break": "GET /a HTTP/1.1\nHost: x\n\n",
		} {
			want := []string{"200"}
			if proper == "" {
				want = nil
			}
			for _, g := range []*running{plain, secure} {
				seen.Store(0)
				got := g.raw(t, proper+text)
				if n := len(want); len(got) != n+1 || !slices.Equal(got[:n], want) || (got[n] != "400" && got[n] != "501") || seen.Load() != int64(n) {
					t.Errorf("%s, after %q, TLS %t: answers %v, the replica saw %d; want %v, then one 400 or 501", name, before, g.secure, got, seen.Load(), want)
				}
			}
		}
	}
}

func TestAnUnreadBodyIsNeverTakenForARequest(t *testing.T) {
	var seen []string
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { seen = append(seen, r.URL.Path) })
	g := start(t, service("m", replicaBlock(replica, "", 1), streaming))
	body := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	got := g.raw(t, fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1<<20)+body)
	if len(got) != 1 || len(seen) != 1 {
		t.Errorf("answers %v, the replica saw %v", got, seen)
	}
}

func TestOversizedRequestsAreRefused(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n max_header = \"4KiB\"\n max_body = \"64KiB\"\n}\n")
	if got := g.raw(t, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 20000)+"\r\n\r\n"); fmt.Sprint(got) != "[431]" {
		t.Errorf("a large header: %v", got)
	}
	if got := g.raw(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n"); fmt.Sprint(got) != "[413]" {
		t.Errorf("a large declared body: %v", got)
	}
	r, _ := http.NewRequest(http.MethodPost, g.url, io.LimitReader(zeros{}, 200000))
	if status, _, _ := do(t, r); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body of unknown length: %d", status)
	}
	r, _ = http.NewRequest(http.MethodPost, g.url, io.LimitReader(zeros{}, 60000))
	if status, _, _ := do(t, r); status != http.StatusOK {
		t.Errorf("a body within the limit: %d", status)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSlowClientsAreCutOff(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n header_timeout = \"200ms\"\n idle_timeout = \"200ms\"\n body_timeout = \"200ms\"\n}\n")
	for name, text := range map[string]string{
		"a header that does not end": "GET / HTTP/1.1\r\nHost: x\r\n",
		"nothing at all":             "",
	} {
		began := time.Now()
		g.raw(t, text)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: the connection stayed open", name)
		}
	}
	if got := g.raw(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"); fmt.Sprint(got) != "[408]" {
		t.Errorf("a body that does not arrive: %v, want 408", got)
	}
	eventually(t, "the slot is free again", func() bool { return g.state(t, "m").busy() == 0 })
}

// A body of unknown length that is taken in must come at some rate as well, or a client
// could hold a connection and memory for ever with a byte now and then.
func TestAClientThatDribblesChunksIsGivenUp(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	limits := "listen {\n address = \"127.0.0.1:0\"\n body_timeout = \"200ms\"\n}\n"
	g := start(t, service("m", replicaBlock(replica, "", 1))+limits)
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for err := error(nil); err == nil; <-tick.C {
			_, err = io.WriteString(c, "1\r\nx\r\n")
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("%v, %v", res, err)
	}
	c.Close()
	<-ended
}

func TestAClientThatTakesNothingDoesNotHoldASlot(t *testing.T) {
	var served atomic.Bool
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		served.Store(true)
		io.Copy(w, zeros{})
	})
	g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n write_timeout = \"300ms\"\n}\n")
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "the request is served", served.Load)
	eventually(t, "the slot is free again", func() bool { return g.state(t, "m").busy() == 0 })
}

func TestConnectionsAreBounded(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n max_connections = 2\n}\n")
	var conns []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	answered := make(chan []string, 1)
	go func() { answered <- g.raw(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }()
	select {
	case got := <-answered:
		t.Fatalf("a third connection is served: %v", got)
	case <-time.After(100 * time.Millisecond):
	}
	conns[0].Close()
	if got := <-answered; fmt.Sprint(got) != "[200]" {
		t.Errorf("after one has left: %v", got)
	}
	conns[1].Close()
}

func TestThePublicListenerHasNoAdminEndpoints(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "replica") })
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	for _, path := range []string{"/metrics", "/v1/services", "/v1/ready", "/debug/pprof/"} {
		if _, body, _ := get(t, g.url+path); body != "replica" {
			t.Errorf("%s on the public listener: %q", path, body)
		}
		if status, _, _ := get(t, g.admin+path); status != 200 {
			t.Errorf("%s on the admin listener: %d", path, status)
		}
	}
}
