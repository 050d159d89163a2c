package gateway_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
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
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// The first token must reach the client while the replica still works.
func TestEventsAreNotHeldBack(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson"} {
		next := make(chan struct{})
		replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next
			}
		})
		g := start(t, service("m", replicaBlock(replica, "", 1)))
		res, err := http.Get(g.url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: event %d is %q, %v", kind, i, line, err)
			}
			lines.ReadString('\n')
			next <- struct{}{}
		}
	}
}

func TestTrailersPass(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", r.Trailer.Get("X-In"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
	})
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	r, _ := http.NewRequest(http.MethodPost, g.url, io.MultiReader(strings.NewReader("x")))
	r.Trailer = http.Header{"X-In": {"42"}}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Late") != "late" {
		t.Errorf("trailers %v", res.Trailer)
	}
}

// streaming has requests dispatched before their bodies have come.
const streaming = "upstream {\n request_body = \"stream\"\n}"

func TestContinueComesFromTheReplicaOfAStreamingService(t *testing.T) {
	for _, accept := range []bool{true, false} {
		read := make(chan int, 1)
		replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if !accept {
				w.WriteHeader(http.StatusExpectationFailed)
				read <- 0
				return
			}
			body, _ := io.ReadAll(r.Body)
			read <- len(body)
		})
		g := start(t, service("m", replicaBlock(replica, "", 1), streaming))
		continued := false
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			continued = continued || code == 100
			return nil
		}}
		client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 5 * time.Second}}
		r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, g.url, strings.NewReader("hello"))
		r.Header.Set("Expect", "100-continue")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if n := <-read; continued != accept || (n == 5) != accept {
			t.Errorf("replica accepts %t: the client saw 100: %t, the replica read %d bytes", accept, continued, n)
		}
	}
}

func TestABodyPastTheBoundIsStreamed(t *testing.T) {
	const size = 64 << 20
	started := make(chan struct{})
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		first := make([]byte, 1)
		io.ReadFull(r.Body, first)
		close(started)
		sum.Write(first)
		io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%x", sum.Sum(nil))
	})
	g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n body_buffer = \"512KiB\"\n}\n")
	pr, pw := io.Pipe()
	want := sha256.New()
	go func() {
		block := make([]byte, 1<<20)
		for i := range size >> 20 {
			if i == 1 {
				<-started // the replica reads before the client has sent all
			}
			block[0] = byte(i)
			want.Write(block)
			pw.Write(block)
		}
		pw.Close()
	}()
	r, _ := http.NewRequest(http.MethodPost, g.url, pr)
	status, body, _ := do(t, r)
	if status != 200 || body != fmt.Sprintf("%x", want.Sum(nil)) {
		t.Errorf("status %d, sum %s", status, body)
	}
}

// A replica that answers while it reads, as speech services do, works over
// HTTP/1.1 and HTTP/2.
func TestBothDirectionsAtOnce(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, line)
			http.NewResponseController(w).Flush()
		}
	}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": {Protocols: h2}} {
		replica := serve(t, echo)
		g := start(t, service("m", replicaBlock(replica, "", 1), streaming))
		pr, pw := io.Pipe()
		r, _ := http.NewRequest(http.MethodPost, g.url, pr)
		go io.WriteString(pw, "0\n")
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if res.Proto != map[string]string{"HTTP/1.1": "HTTP/1.1", "HTTP/2": "HTTP/2.0"}[name] {
			t.Errorf("%s: answered in %s", name, res.Proto)
		}
		lines := bufio.NewReader(res.Body)
		for i := range 5 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("%d\n", i) {
				t.Fatalf("%s: line %d is %q, %v", name, i, line, err)
			}
			go fmt.Fprintf(pw, "%d\n", i+1)
		}
		pw.Close()
		res.Body.Close()
	}
}

func TestOverTLS(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-Proto")) })
	cert, key := certificate(t)
	listen := func(timeout string) string {
		return service("m", replicaBlock(replica, "", 1)) + fmt.Sprintf("listen {\n address = \"127.0.0.1:0\"\n %s\n tls {\n cert_file = %q\n key_file = %q\n}\n}\n", timeout, cert, key)
	}
	g := start(t, listen(""))
	for major, http2 := range map[int]bool{1: false, 2: true} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}}
		for range 2 { // the second time on the same connection
			res, err := client.Get(strings.Replace(g.url, "http:", "https:", 1))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.ProtoMajor != major || string(body) != "https" {
				t.Errorf("%s %q, want HTTP/%d", res.Proto, body, major)
			}
		}
		client.CloseIdleConnections()
	}
	if status, body, _ := get(t, g.url); status != 400 || !strings.Contains(body, "https") {
		t.Errorf("a client without TLS: %d %q", status, body)
	}
	hurried := start(t, listen(`header_timeout = "300ms"`))
	silent, err := net.Dial("tcp", strings.TrimPrefix(hurried.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, silent); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a client that does not begin the handshake keeps its connection")
	}
}

// certificate writes the test server's own certificate to files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c, k := encodePair(t, s.TLS.Certificates[0])
	if err := os.WriteFile(cert, c, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, k, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestWebSockets(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, text, err := c.Read(r.Context())
			if err != nil {
				return
			}
			c.Write(r.Context(), kind, append([]byte("echo "), text...))
		}
	})
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	c, _, err := websocket.Dial(t.Context(), strings.Replace(g.url, "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", strings.Repeat("b", 20000)} {
		c.Write(t.Context(), websocket.MessageText, []byte(text))
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != "echo "+text {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	eventually(t, "the connection holds a slot", func() bool { return g.state(t, "m").busy() == 1 })
	c.CloseNow()
	eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
}

func TestGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	backend := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(backend, checks)
	go backend.Serve(listener)
	defer backend.Stop()
	g := start(t, service("m", fmt.Sprintf("replica {\n address = %q\n slots = 2\n}\nqueue {\n max_wait = \"2s\"\n}", listener.Addr())))
	conn, err := grpc.NewClient(strings.TrimPrefix(g.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	res, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", res, err)
	}
	_, err = client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "none"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an error status arrives as %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watch, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING} {
		got, err := watch.Recv()
		if err != nil || got.Status != want {
			t.Fatalf("stream: %v, %v, want %v", got, err, want)
		}
		checks.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}
	cancel()
	eventually(t, "the stream's slot is free", func() bool { return g.state(t, "m").busy() == 0 })
	backend.Stop()
	_, err = client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("without a replica: %v", err)
	}
}

// The slot is free before the client has the whole answer, also where that is a stream of
// nothing.
func TestAnEmptyStreamFreesItsSlotFirst(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Length", "0")
	})
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	for range 200 {
		if status, _, _ := get(t, g.url); status != 200 {
			t.Fatalf("status %d", status)
		}
		if n := g.state(t, "m").busy(); n != 0 {
			t.Fatalf("%d slots are taken after the answer", n)
		}
	}
}
