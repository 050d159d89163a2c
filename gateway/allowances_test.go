package gateway_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

const limited = "tenants {\n header = \"X-Tenant\"\n tenant \"default\" {\n tokens_per_minute = 1000\n }\n}\n"

// However a request is dressed, it takes of its tenant's tokens.
func TestNoWayAroundTokensPerMinute(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"usage":{"prompt_tokens":300,"completion_tokens":2}}`)
	})
	body := chatBody("hello", false)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, body)
	z.Close()
	for name, c := range map[string]struct{ upstream, path, coding, body string }{
		"a mark":      {"", "/v1/chat/completions", "", "\xef\xbb\xbf" + body},
		"a stream":    {"upstream {\n request_body = \"stream\"\n}\n", "/v1/chat/completions", "", body},
		"compressed":  {"", "/v1/chat/completions", "gzip", packed.String()},
		"native path": {"", "/generate", "", body},
	} {
		g := start(t, limited+service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", c.upstream, replicaBlock(replica, "h100", 1)))
		served, status := 0, 0
		for ; served < 10; served++ {
			r, _ := http.NewRequest(http.MethodPost, g.url+c.path, strings.NewReader(c.body))
			r.Header.Set("Content-Encoding", c.coding)
			if status, _, _ = do(t, r); status != 200 {
				break
			}
			eventually(t, "the request is accounted", func() bool {
				_, usage, _ := get(t, g.admin+"/v1/usage")
				return strings.Contains(usage, fmt.Sprintf(`"requests":%d,`, served+1))
			})
		}
		if status != http.StatusTooManyRequests || served < 3 {
			t.Errorf("%s: after %d requests: %d", name, served, status)
		}
	}
}

// One request that asks for more than anybody generates locks its tenant out for no
// longer than it takes to fill the account.
func TestAnAbsurdLimitLocksNobodyOut(t *testing.T) {
	asked, hold := make(chan struct{}, 10), make(chan struct{})
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-hold
	})
	defer close(hold)
	g := start(t, limited+service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", replicaBlock(replica, "h100", 4)))
	absurd := `{"model":"m","messages":[],"max_tokens":999999999,"n":128,"ignore_eos":true}`
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(absurd))
	go http.DefaultClient.Do(r)
	<-asked
	again, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(absurd))
	status, _, h := do(t, again)
	after, _ := strconv.Atoi(h.Get("Retry-After"))
	full, err := time.ParseDuration(h.Get("X-Ratelimit-Reset-Tokens"))
	if status != http.StatusTooManyRequests || after < 1 || after > 60 || err != nil || full > time.Minute {
		t.Errorf("%d, again after %d s, full after %v", status, after, full)
	}
}
