package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/discovery"
)

// running is a gateway under test, in this process.
type running struct {
	*gateway.Server
	url, admin string
	rest       string       // of the configuration, what start added
	secure     bool         // raw speaks TLS
	stop       func() error // drains and waits for the end
}

// start runs a gateway with a configuration; its listeners and the admin block
// are added.
func start(t *testing.T, text string, change ...func(*gateway.Options)) *running {
	t.Helper()
	given := text
	text += "\nadmin {\n address = \"127.0.0.1:0\"\n}\n"
	if !strings.Contains(text, "access_log") {
		text += "access_log = \"off\"\n"
	}
	if !strings.Contains(text, "listen {") {
		text += "\nlisten { address = \"127.0.0.1:0\" }\n"
	}
	if !strings.Contains(text, "drain {") {
		text += "\ndrain {\n delay = \"0s\"\n timeout = \"5s\"\n}\n"
	}
	c, err := config.Parse([]byte(text), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	sources := discovery.Sources{Log: log}
	o := gateway.Options{Log: log, Source: func(s config.Service) (gateway.Source, error) { return sources.Of(s.Source), nil }}
	for _, f := range change {
		f(&o)
	}
	server, err := gateway.New(inThisWay(c), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	r := &running{Server: server, rest: strings.TrimPrefix(text, given)}
	public, admin := server.Addresses()
	r.url, r.admin = "http://"+public, "http://"+admin
	var done bool
	r.stop = func() error {
		if done {
			return nil
		}
		done = true
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Minute):
			return fmt.Errorf("the gateway does not end")
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if os.Getenv("ALIQUOT_TEST_LOG") != "" {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// service is the text of a service block.
func service(name string, blocks ...string) string {
	return fmt.Sprintf("service %q {\n%s\n}\n", name, strings.Join(blocks, "\n"))
}

// replicaBlock names a test server as a replica.
func replicaBlock(s *httptest.Server, class string, slots int) string {
	return fmt.Sprintf("replica {\n address = %q\n class = %q\n slots = %d\n}\n", strings.TrimPrefix(s.URL, "http://"), class, slots)
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute) // only ends a test that hangs
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// do sends a request and returns status, body and header.
func do(t *testing.T, r *http.Request) (int, string, http.Header) {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res.Header
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

func TestARequestReachesTheReplicaAsItWasSent(t *testing.T) {
	type seen struct {
		method, uri, body, host, forwarded string
	}
	got := make(chan seen, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, string(body), r.Host, r.Header.Get("X-Forwarded-For")}
		w.Header().Set("X-From", "replica")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "short and stout")
	})
	g := start(t, service("m", replicaBlock(replica, "h100", 1)))
	r, _ := http.NewRequest(http.MethodPost, g.url+"/a%2Fb?x=1;y=2&z", strings.NewReader("hello"))
	r.Host = "models.example.org"
	status, body, header := do(t, r)
	if status != http.StatusTeapot || body != "short and stout" || header.Get("X-From") != "replica" {
		t.Errorf("answer is %d %q %v", status, body, header)
	}
	want := seen{"POST", "/a%2Fb?x=1;y=2&z", "hello", "models.example.org", "127.0.0.1"}
	if s := <-got; s != want {
		t.Errorf("the replica saw %+v, want %+v", s, want)
	}
}
