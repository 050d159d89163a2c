package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// metrics are what two gateways say, that do not share their queues.
const metrics = `aliquot_gateway_queued{service="chat"} 3
aliquot_gateway_queued{service="code"} 100
aliquot_gateway_active{service="chat",class="h100"} 2
aliquot_gateway_active{service="chat",class="t4"} 1
aliquot_gateway_replicas{service="chat",class="h100",state="serving"} 2
aliquot_gateway_replicas{service="chat",class="h100",state="leaving"} 1
`

// A real Prometheus that scrapes two gateways says what was.
func TestHistoryOfARealPrometheus(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("needs Prometheus, which scripts/setup leaves out because Debian's package starts a server on port 9090: " +
			"apt-get install prometheus")
	}
	gateway := func() string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			fmt.Fprint(w, metrics)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs:\n- job_name: gateways\n  scrape_interval: 1s\n  static_configs:\n  - targets: [%q, %q]\n", gateway(), gateway())
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	h, err := NewHistory("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := h.Of(t.Context(), "chat", 600, time.Now())
		last := len(s.Queued) - 1
		if err == nil && s.Queued[last] != nil && *s.Queued[last] == 6 && s.Ready["h100"] != nil {
			if a, r := s.Active["h100"][last], s.Ready["h100"][last]; *a != 4 || *r != 2 || len(s.Active) != 2 || s.Queued[0] != nil || len(s.Time) != len(s.Queued) {
				t.Errorf("active %v, ready %v of %+v", *a, *r, s.Active)
			}
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if s, err := h.Of(t.Context(), `chat"} or vector(1) or x{service="`, 600, time.Now()); err != nil || s.Queued[len(s.Queued)-1] != nil {
		t.Errorf("a name with quotes is part of the query: %+v, %v", s.Queued, err)
	}
}

func TestHistoryWithoutAnAnswer(t *testing.T) {
	for what, handler := range map[string]http.HandlerFunc{
		"another program": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"an error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"another kind": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`)
		},
	} {
		s := httptest.NewServer(handler)
		h, err := NewHistory(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Of(t.Context(), "chat", 600, time.Now()); err == nil {
			t.Errorf("%s: no error", what)
		}
		s.Close()
	}
}

// A Prometheus that accepts questions and never answers is left when the time is up.
func TestHistoryOfAHungPrometheus(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // so that the server sees when the client leaves
		cancel()
		<-r.Context().Done()
	}))
	defer s.Close()
	h, err := NewHistory(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Of(ctx, "chat", 600, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// freeAddress is one at which nothing listens any more.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
