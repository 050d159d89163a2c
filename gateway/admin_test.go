package gateway

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/gateway/config"
)

// piped is a listener of one connection, and the server's end of it.
type piped struct {
	net.Conn
	once   sync.Once
	given  bool
	closed chan struct{}
}

func (p *piped) Accept() (net.Conn, error) {
	if !p.given {
		p.given = true
		return p, nil
	}
	<-p.closed
	return nil, net.ErrClosed
}

func (p *piped) Addr() net.Addr { return p.LocalAddr() }

func (p *piped) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

func TestTheAdminListenerGivesUpOnStuckClients(t *testing.T) {
	c, err := config.Parse([]byte("access_log = \"off\"\nservice \"m\" {\n replica {\n address = \"127.0.0.1:1\"\n }\n}\n"), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]struct {
		text string
		read bool
	}{
		"half a head":           {"GET /v1/ready HTTP/1.1\r\n", true},
		"half a body":           {"PUT /v1/services/m/awake HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", true},
		"a body nobody asks of": {"POST /v1/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", true},
		"an unread answer":      {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", false},
		"nothing after one":     {"GET /v1/ready HTTP/1.1\r\nHost: x\r\n\r\n", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := New(c, Options{Source: func(config.Service) (Source, error) { return nil, nil }})
			if err != nil {
				t.Fatal(err)
			}
			client, server := net.Pipe()
			p := &piped{Conn: server, closed: make(chan struct{})}
			admin := s.adminServer()
			go admin.Serve(p)
			go func() {
				io.WriteString(client, d.text)
				if d.read {
					io.Copy(io.Discard, client)
				}
			}()
			select {
			case <-p.closed:
			case <-time.After(2 * time.Minute):
				t.Errorf("%s: the connection is held", name)
			}
			admin.Close()
			client.Close()
		})
	}
}

// A profile takes as long as it is asked to.
func TestAProfileMayTakeLongerThanAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := &piped{Conn: server, closed: make(chan struct{})}
		longer := (&Server{metrics: newMetrics()}).adminServer()
		longer.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * adminTime)) // as net/http/pprof does
			select {
			case <-time.After(3 * adminTime):
			case <-r.Context().Done():
				t.Error("it is cut off")
			}
		})
		go longer.Serve(p)
		go io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if text, err := io.ReadAll(client); len(text) == 0 || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		longer.Close()
	})
}
