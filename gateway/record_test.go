package gateway_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheAccessLogTellsOutcomesAndNoSecrets(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	path := filepath.Join(t.TempDir(), "access.log")
	sum := sha256.Sum256([]byte("sk-configured"))
	text := fmt.Sprintf("access_log = %q\ntenants {\n api_key = true\n tenant \"acme\" {\n  key_sha256 = [%q]\n }\n}\n", path, hex.EncodeToString(sum[:]))
	g := start(t, text+service("m", replicaBlock(replica, "h100", 1), "route {\n path_prefix = \"/v1\"\n}"))
	send := func(path, name, value string) {
		r, _ := http.NewRequest(http.MethodPost, g.url+path, strings.NewReader("hello"))
		r.Header.Set(name, value)
		do(t, r)
	}
	send("/v1/x", "Authorization", "Bearer sk-configured")
	send("/v1/y?key=sk-query", "X-API-Key", "sk-unknown")
	send("/none", "X-API-Key", "sk-unknown")
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "sk-") {
		t.Errorf("the log holds a key:\n%s", log)
	}
	var lines []map[string]any
	for line := range strings.Lines(string(log)) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, entry)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines for 3 requests", len(lines))
	}
	for i, want := range []struct{ tenant, outcome, class, path string }{{"acme", "served", "h100", "/v1/x"}, {"", "served", "h100", "/v1/y"}, {"", "unmatched", "", "/none"}} {
		e := lines[i]
		if !strings.HasPrefix(e["tenant"].(string), want.tenant) || e["outcome"] != want.outcome || e["class"] != want.class || e["path"] != want.path {
			t.Errorf("line %v, want %+v", e, want)
		}
	}
}

// A connection serves one request after another, also with bodies.
func TestConnectionsAreKept(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	g := start(t, service("m", replicaBlock(replica, "", 1), "route {\n models = [\"x\"]\n}\nroute {}"))
	client := &http.Client{Transport: &http.Transport{}}
	reused := 0
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if i.Reused {
			reused++
		}
	}}
	for i := range 10 {
		body := `{"model":"x","prompt":"` + strings.Repeat("a", i*1000) + `"}`
		r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, g.url, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(res.Body); string(got) != body {
			t.Errorf("body %d came back as %d bytes", i, len(got))
		}
		res.Body.Close()
	}
	if reused != 9 {
		t.Errorf("%d of 9 requests found the connection kept", reused)
	}
}
