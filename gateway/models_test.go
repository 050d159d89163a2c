package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

const twoModels = "route {\n models = [\"b\", \"a\"]\n}\nroute {\n hosts = [\"secret\"]\n models = [\"c\"]\n}"

func TestModelsAreListed(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "replica") })
	g := start(t, service("m", replicaBlock(replica, "", 1), twoModels))
	status, body, header := get(t, g.url+"/v1/models")
	var list struct {
		Object string
		Data   []struct{ ID, Object string }
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil || status != 200 || header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if list.Object != "list" || len(list.Data) != 2 || list.Data[0].ID != "a" || list.Data[1].ID != "b" || list.Data[0].Object != "model" {
		t.Errorf("the list is %s", body)
	}
	r, _ := http.NewRequest(http.MethodGet, g.url+"/v1/models", nil)
	r.Host = "secret"
	if _, body, _ := do(t, r); !strings.Contains(body, `"c"`) {
		t.Errorf("for the host of another model: %s", body)
	}
	if status, body, _ := get(t, g.url+"/v1/models/a"); status != 200 || !strings.Contains(body, `"id":"a"`) {
		t.Errorf("one model: %d %s", status, body)
	}
	if status, body, _ := get(t, g.url+"/v1/models/c"); status != 404 || !strings.Contains(body, "model_not_found") {
		t.Errorf("a model of others: %d %s", status, body)
	}
	if n := g.metric(t, `aliquot_gateway_requests_total{code="2xx",outcome="listed",service=""}`); n != "3" {
		t.Errorf("counted %q times", n)
	}
	known := start(t, service("m", "model = \"a\"\n", replicaBlock(replica, "", 1), twoModels))
	if status, body, _ := get(t, known.url+"/v1/models"); status != 200 || !strings.Contains(body, `"owned_by":"aliquot"}`) || !strings.Contains(body, `"id":"b"`) || strings.Count(body, `"root":"a"`) != 1 {
		t.Errorf("an alias is not marked: %s", body)
	}
	all := start(t, service("m", replicaBlock(replica, "", 1)))
	if _, body, _ := get(t, all.url+"/v1/models"); body != "replica" {
		t.Errorf("without routes by models: %q", body)
	}
}

func TestAModelThatIsNotServedIsNamed(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	g := start(t, service("m", replicaBlock(replica, "", 1), twoModels))
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(`{"model":"x"}`))
	r.Header.Set("Content-Type", "application/json")
	status, body, _ := do(t, r)
	var e struct {
		Error struct{ Message, Type, Code string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != 404 || e.Error.Code != "model_not_found" || e.Error.Type != "invalid_request_error" {
		t.Errorf("%d %q %v", status, body, err)
	}
	if !strings.Contains(e.Error.Message, `"x"`) || !strings.Contains(e.Error.Message, "a, b") || strings.Contains(e.Error.Message, "c,") {
		t.Errorf("the error says %q", e.Error.Message)
	}
}

// Audio comes as a form, the file often before the model.
func TestTheModelOfAFormRoutes(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("file")
		if err != nil {
			t.Error(err)
			return
		}
		n, _ := io.Copy(io.Discard, file)
		fmt.Fprint(w, n, r.FormValue("model"))
	})
	g := start(t, service("m", replicaBlock(replica, "", 1), twoModels))
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	file, _ := w.CreateFormFile("file", "speech.wav")
	file.Write(make([]byte, 3<<20))
	w.WriteField("model", "a")
	w.Close()
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/audio/transcriptions", &form)
	r.Header.Set("Content-Type", w.FormDataContentType())
	if status, body, _ := do(t, r); status != 200 || body != fmt.Sprint(3<<20, "a") {
		t.Errorf("%d %q", status, body)
	}
}

func TestTheCertificateIsReadAgain(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	cert, key := certificate(t)
	g := start(t, service("m", replicaBlock(replica, "", 1))+fmt.Sprintf("listen {\n address = \"127.0.0.1:0\"\n tls {\n cert_file = %q\n key_file = %q\n}\n}\n", cert, key))
	serial := func() string {
		c, err := tls.Dial("tcp", strings.TrimPrefix(g.url, "http://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	// First a certificate without its key, as while the files are written.
	newCert, newKey := issue(t)
	write := func(path string, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cert, newCert)
	if got := serial(); got != before {
		t.Errorf("a certificate without its key is used: %s", got)
	}
	write(key, newKey)
	eventually(t, "the new certificate", func() bool { return serial() != before })
}

func TestAStuckAccessLogBlocksNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0) // opened and never read
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	g := start(t, fmt.Sprintf("access_log = %q\n", path)+service("m", replicaBlock(replica, "", 1)))
	long := g.url + "/" + strings.Repeat("x", 30<<10)
	eventually(t, "lines are dropped and counted", func() bool {
		if status, _, _ := get(t, long); status != 200 {
			t.Fatalf("status %d", status)
		}
		n := g.metric(t, "aliquot_gateway_access_log_dropped_total")
		return n != "" && n != "0"
	})
	if err := g.stop(); err != nil {
		t.Error(err)
	}
}

func TestStreamsOfOneConnectionAreBounded(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 8))+"listen {\n address = \"127.0.0.1:0\"\n max_streams = 3\n}\n")
	transport := &http2.Transport{AllowHTTP: true, StrictMaxConcurrentStreams: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	statuses := make(chan int, 6)
	one := func() {
		res, err := client.Get(g.url)
		if err != nil {
			statuses <- 0
			return
		}
		res.Body.Close()
		statuses <- res.StatusCode
	}
	for n := range int64(3) {
		go one()
		eventually(t, "one more is served", func() bool { return a.active.Load() == n+1 })
	}
	for range 3 {
		go one()
	}
	eventually(t, "the bound is visible", func() bool { return g.metric(t, "aliquot_gateway_streams_full_total") == "1" })
	close(a.release)
	for range 6 {
		if s := <-statuses; s != 200 {
			t.Errorf("status %d", s)
		}
	}
	if a.most.Load() != 3 {
		t.Errorf("%d at once on one connection, want 3", a.most.Load())
	}
}

func TestTheWordOfTrustedProxiesIsKept(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("X-Forwarded-Proto")+" "+r.Header.Get("X-Forwarded-Host"))
	})
	for proxies, want := range map[string]string{`["127.0.0.0/8"]`: "https front", `["10.0.0.0/8", "::1"]`: "http models"} {
		g := start(t, service("m", replicaBlock(replica, "", 1))+"listen {\n address = \"127.0.0.1:0\"\n trusted_proxies = "+proxies+"\n}\n")
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		r.Host = "models"
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Host", "front")
		if _, body, _ := do(t, r); body != want {
			t.Errorf("trusting %s: %q, want %q", proxies, body, want)
		}
	}
}
