package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// rawReplica answers every request with the same text, and tells what it got.
func rawReplica(t *testing.T, answer string) (address string, got <-chan *http.Request) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	requests := make(chan *http.Request, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					requests <- r
					io.WriteString(c, answer)
				}
			}()
		}
	}()
	return l.Addr().String(), requests
}

func at(address string) string { return fmt.Sprintf("replica {\n address = %q\n}\n", address) }

func TestHeadersOfOneConnectionStayThere(t *testing.T) {
	address, got := rawReplica(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nX-Kept: 2\r\n\r\nok")
	g := start(t, service("m", at(address)))
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: models\r\nConnection: x-private ,keep-alive\r\nX-Private: 1\r\nKeep-Alive: 300\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: gzip, trailers\r\nForwarded: for=evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: evil\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Kept: 1\r\nX-Kept: 2\r\n\r\n")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := <-got
	for _, name := range []string{"Connection", "X-Private", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Forwarded", "User-Agent"} {
		if v, ok := r.Header[name]; ok {
			t.Errorf("the replica got %s: %q", name, v)
		}
	}
	for name, want := range map[string]string{"Te": "trailers", "X-Forwarded-For": "10.0.0.1, 10.0.0.2, 127.0.0.1", "X-Forwarded-Host": "models", "X-Forwarded-Proto": "http", "X-Kept": "1|2"} {
		if v := strings.Join(r.Header[name], "|"); v != want {
			t.Errorf("the replica got %s: %q, want %q", name, v, want)
		}
	}
	for _, name := range []string{"Connection", "X-Mine", "Keep-Alive", "Proxy-Authenticate"} {
		if v, ok := res.Header[name]; ok {
			t.Errorf("the client got %s: %q", name, v)
		}
	}
	if v := strings.Join(res.Header["X-Kept"], "|"); v != "1|2" {
		t.Errorf("the client got X-Kept: %q", v)
	}
	io.Copy(io.Discard, res.Body)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: models\r\n\r\n")
	if _, err := http.ReadResponse(in, nil); err != nil {
		t.Errorf("the connection was not kept: %v", err)
	}
}

func TestInformationalAnswersPass(t *testing.T) {
	address, _ := rawReplica(t, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: final\r\n\r\nok")
	g := start(t, service("m", at(address)))
	var early []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}
	r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, g.url, nil)
	status, body, header := do(t, r)
	if strings.Join(early, " ") != "103</a> 103</b>" || status != 200 || body != "ok" || header.Get("X") != "final" || header.Get("Link") != "" {
		t.Errorf("early %q, then %d %q %v", early, status, body, header)
	}
}

func TestAnUnaskedSwitchOfProtocolsIsNoAnswer(t *testing.T) {
	address, _ := rawReplica(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n")
	g := start(t, service("m", at(address)))
	if status, _, header := get(t, g.url); status != 502 || header.Get("X-Aliquot-Outcome") != "broken" {
		t.Errorf("%d %v", status, header)
	}
	eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
}
