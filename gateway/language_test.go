package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/gateway"
	"aliquot.example/internal/api"
)

// modelAnswer is what the replica of these tests streams.
var modelAnswer = func() string {
	var b strings.Builder
	b.WriteString("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n")
	for range 5 {
		b.WriteString("data: {\"choices\":[{\"delta\":{\"content\":\"xylophone-answer \"}}]}\n\n")
	}
	b.WriteString("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":5,\"prompt_tokens_details\":{\"cached_tokens\":256}}}\n\ndata: [DONE]\n\n")
	return b.String()
}()

// engine is a replica with vLLM's pages.
func engine(t *testing.T) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			io.WriteString(w, "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"1000\"} 1\n")
		case "/v1/models":
			io.WriteString(w, `{"data":[{"id":"m","max_model_len":4096}]}`)
		case "/v1/embeddings":
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}`)
		case "/v1/chat/completions":
			body, _ := io.ReadAll(r.Body)
			if strings.Contains(string(body), "break") {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, modelAnswer[:len(modelAnswer)/2])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			if len(body) > 100_000 {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if !strings.Contains(string(body), `"stream":true`) {
				w.Header().Set("Content-Type", "application/json")
				io.WriteString(w, `{"choices":[{"message":{"content":"xylophone-answer"}}],"usage":{"prompt_tokens":300,"completion_tokens":2}}`)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			for event := range strings.SplitAfterSeq(modelAnswer, "\n\n") {
				io.WriteString(w, event)
				w.(http.Flusher).Flush()
			}
		}
	})
}

// ask sends a chat and returns its status and answer.
func ask(t *testing.T, g *running, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer sk-tenant")
	status, text, _ := do(t, r)
	return status, text
}

func replicaState(t *testing.T, g *running) api.Replica {
	t.Helper()
	_, text, _ := get(t, g.admin+"/v1/services")
	var services []api.Service
	if err := json.Unmarshal([]byte(text), &services); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if len(services[0].Replicas) == 0 {
		return api.Replica{} // not found yet
	}
	return services[0].Replicas[0]
}

func chatBody(text string, streamed bool) string {
	return fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}],"stream":%t}`, text, streamed)
}

const objective = "slo {\n ttft = \"1h\"\n tpot = \"1h\"\n}\n"

// What passes through is measured and changes nothing; the books are empty in the
// end; and nothing that was asked or answered is found anywhere.
func TestALanguageModelIsMeasured(t *testing.T) {
	replica := engine(t)
	log := filepath.Join(t.TempDir(), "access.log")
	var told strings.Builder
	logger := func(o *gateway.Options) {
		o.Log = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	text := fmt.Sprintf("access_log = %q\nlog_level = \"debug\"\ntenants {\n api_key = true\n}\n", log)
	g := start(t, text+service("chat", "policy = \"tokens\"\n", objective, replicaBlock(replica, "h100", 1)), logger)
	eventually(t, "the engine's sizes are known", func() bool {
		r := replicaState(t, g)
		return r.KV == 16000 && r.MaxPrompt == 4096
	})
	secret := strings.Repeat("the password of the vault is swordfish. ", 60)
	if status, got := ask(t, g, chatBody(secret, true)); status != 200 || got != modelAnswer {
		t.Fatalf("%d, and the answer is not the replica's: %q", status, got)
	}
	if status, got := ask(t, g, chatBody(secret, false)); status != 200 || !strings.Contains(got, "xylophone") {
		t.Fatalf("%d %q", status, got)
	}
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/embeddings", strings.NewReader(`{"input":"swordfish"}`))
	if status, _, _ := do(t, r); status != 200 {
		t.Fatal(status)
	}
	// By estimate no replica takes it; the engine says what is wrong.
	if status, _ := ask(t, g, chatBody(strings.Repeat("swordfish ", 20_000), true)); status != http.StatusBadRequest {
		t.Errorf("a prompt that is too long ends with %d", status)
	}
	if res, err := http.Post(g.url+"/v1/chat/completions", "application/json", strings.NewReader(chatBody("break swordfish", true))); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	eventually(t, "the books are empty", func() bool {
		r := replicaState(t, g)
		return r.InFlight == 0 && r.Active == 0
	})
	var metrics string
	eventually(t, "all requests are recorded", func() bool {
		_, metrics, _ = get(t, g.admin+"/metrics")
		return strings.Contains(metrics, `aliquot_gateway_slo_total{class="h100",result="missed",service="chat"} 1`)
	})
	for _, want := range []string{
		`aliquot_gateway_slo_total{class="h100",result="met",service="chat"} 2`,
		`aliquot_gateway_ttft_seconds_count{class="h100",service="chat"} 2`,
		`aliquot_gateway_tpot_seconds_count{class="h100",service="chat"} 2`,
		`aliquot_gateway_inflight_tokens{class="h100",service="chat"} 0`,
		`aliquot_gateway_kv_tokens{class="h100",service="chat"} 16000`,
		`aliquot_gateway_engine_requests{class="h100",service="chat",state="waiting"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"access log": string(written), "metrics": metrics, "log": told.String()} {
		for _, word := range []string{"swordfish", "vault", "xylophone", "sk-tenant"} {
			if strings.Contains(text, word) {
				t.Errorf("the %s has %q", where, word)
			}
		}
	}
}

// A client cannot make its prompt light by a header, unless it may declare costs.
func TestDeclaredPrompts(t *testing.T) {
	hold := make(chan struct{})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-hold })
	defer close(hold)
	for declares, want := range map[bool]func(int) bool{
		false: func(n int) bool { return n > 100 },
		true:  func(n int) bool { return n == 7 },
	} {
		tenants := fmt.Sprintf("tenants {\n tenant \"default\" {\n declare_cost = %t\n }\n}\n", declares)
		g := start(t, tenants+service("chat", "policy = \"tokens\"\n", "engine {\n metrics = \"off\"\n}\n", replicaBlock(slow, "h100", 1)))
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody(strings.Repeat("word ", 400), true)))
		r.Header.Set("X-Prompt-Tokens", "7")
		ctx, leave := context.WithCancel(t.Context())
		go http.DefaultClient.Do(r.WithContext(ctx))
		eventually(t, "the request is served", func() bool { return replicaState(t, g).Active == 1 })
		if n := replicaState(t, g).InFlight; !want(n) {
			t.Errorf("declare_cost = %t: %d tokens are in flight", declares, n)
		}
		leave()
	}
}

// What the gateway itself answers has the shape that the API's clients read.
func TestRefusalsOfLanguageModels(t *testing.T) {
	g := start(t, service("chat", "route {\n models = [\"m\"]\n}\n", "queue {\n max_wait = \"10ms\"\n}\n", "replicas_file = \""+filepath.Join(t.TempDir(), "none")+"\"\n"))
	for _, c := range []struct{ path, body, want string }{
		{"/v1/chat/completions", `{"model":"other"}`, `404 {"error":{"message":"the model \"other\" is not served here: want one of m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`},
		{"/v1/chat/completions", `{"model":"m"}`, `503 {"error":{"message":"no replica became free in time","type":"server_error","param":null,"code":"expired"}}`},
		{"/v1/messages", `{"model":"m"}`, `503 {"type":"error","error":{"message":"no replica became free in time","type":"overloaded_error","param":null,"code":"expired"}}`},
		{"/infer", `{"model":"m"}`, `503 no replica became free in time`},
	} {
		r, _ := http.NewRequest(http.MethodPost, g.url+c.path, strings.NewReader(c.body))
		status, text, h := do(t, r)
		if got := fmt.Sprintf("%d %s", status, strings.TrimSpace(text)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.path, c.body, got, c.want)
		}
		if status == 503 && h.Get("Retry-After") == "" || h.Get("X-Aliquot-Outcome") == "" {
			t.Errorf("%s: %v", c.path, h)
		}
	}
}

// Tokens are accounted to tenants, told or estimated.
func TestUsageByTenant(t *testing.T) {
	g := start(t, "tenants {\n header = \"X-Tenant\"\n tenant \"acme\" {}\n}\n"+service("chat", "policy = \"tokens\"\n", replicaBlock(engine(t), "h100", 1)))
	for _, tenant := range []string{"acme", "acme", "someone"} {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody("hello", true)))
		r.Header.Set("X-Tenant", tenant)
		do(t, r)
	}
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody("break", true)))
	r.Header.Set("X-Tenant", "someone")
	if res, err := http.DefaultClient.Do(r); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	var u api.Usage
	eventually(t, "all requests are accounted", func() bool {
		_, text, _ := get(t, g.admin+"/v1/usage?service=chat")
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			t.Fatal(err)
		}
		return len(u.Usage) == 2 && u.Usage[0].Requests == 2 && u.Usage[1].Requests == 2
	})
	if want := (api.TenantUsage{Service: "chat", Tenant: "acme", Requests: 2, Prompt: 600, Cached: 512, Output: 10}); u.Usage[0] != want {
		t.Errorf("%+v, want %+v", u.Usage[0], want)
	}
	if got := u.Usage[1]; got.Tenant != "someone" || got.Estimated != 1 || got.Prompt <= 300 || got.Output <= 5 {
		t.Errorf("%+v", got)
	}
	_, metrics, _ := get(t, g.admin+"/metrics")
	for _, want := range []string{
		`aliquot_gateway_tokens_total{kind="prompt",service="chat",source="usage",tenant="acme"} 600`,
		`aliquot_gateway_tokens_total{kind="output",service="chat",source="usage",tenant="other"} 5`,
		`aliquot_gateway_tokens_total{kind="output",service="chat",source="estimate",tenant="other"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if status, _, _ := get(t, g.admin+"/v1/usage?service=none"); status != http.StatusNotFound {
		t.Error("the usage of no service is told")
	}
}

// A tenant's tokens are taken by estimate and settled by what the engine tells; its
// neighbours have theirs.
func TestTokensPerMinute(t *testing.T) {
	tenants := "tenants {\n header = \"X-Tenant\"\n tenant \"acme\" {\n tokens_per_minute = 1000\n }\n tenant \"free\" {}\n tenant \"default\" {\n tokens_per_minute = 500\n }\n}\n"
	g := start(t, tenants+service("chat", replicaBlock(engine(t), "h100", 1)))
	send := func(tenant, path string) (int, string, http.Header) {
		r, _ := http.NewRequest(http.MethodPost, g.url+path, strings.NewReader(chatBody("hello", true)))
		r.Header.Set("X-Tenant", tenant)
		return do(t, r)
	}
	var status int
	var text string
	var h http.Header
	served := 0
	for ; served < 50; served++ {
		if status, text, h = send("acme", "/v1/chat/completions"); status != 200 {
			break
		}
		if h.Get("X-Ratelimit-Limit-Tokens") != "1000" || h.Get("X-Ratelimit-Remaining-Tokens") == "" || h.Get("X-Ratelimit-Reset-Tokens") == "" {
			t.Fatalf("headers %v", h)
		}
		// The truth is 305 tokens; it is settled when the exchange is recorded.
		eventually(t, "the request is accounted", func() bool {
			_, usage, _ := get(t, g.admin+"/v1/usage")
			return strings.Contains(usage, fmt.Sprintf(`"requests":%d,`, served+1))
		})
	}
	if served < 3 || served > 5 || status != http.StatusTooManyRequests || !strings.Contains(text, `"type":"tokens"`) || !strings.Contains(text, "rate_limit_exceeded") {
		t.Errorf("after %d requests: %d %s", served, status, text)
	}
	if h.Get("Retry-After") == "" || h.Get("X-Ratelimit-Remaining-Tokens") == "" || h.Get("X-Aliquot-Outcome") != "token_limit" {
		t.Errorf("headers %v", h)
	}
	list, _ := http.NewRequest(http.MethodGet, g.url+"/v1/models", nil)
	list.Header.Set("X-Tenant", "acme")
	if status, _, _ := do(t, list); status != 200 {
		t.Errorf("the list of models costs tokens: %d", status)
	}
	for _, other := range []string{"free", "someone"} {
		if status, text, _ := send(other, "/v1/chat/completions"); status != 200 {
			t.Errorf("tenant %s: %d %s", other, status, text)
		}
	}
	if _, _, h := send("free", "/v1/chat/completions"); h.Get("X-Ratelimit-Limit-Tokens") != "" {
		t.Error("a tenant without a bound is told one")
	}
}

// The series of a service say how its answers were.
func TestTokensInTheSeries(t *testing.T) {
	g := start(t, service("chat", objective, replicaBlock(engine(t), "h100", 1)))
	var sum api.Tokens
	asked := 0
	// The series begin with the first whole second; what ended before is not in them.
	eventually(t, "a second with requests is over", func() bool {
		ask(t, g, chatBody("hello", true))
		asked++
		_, text, _ := get(t, g.admin+"/v1/services/chat/concurrency?window=1h")
		var c api.Concurrency
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		sum = api.Tokens{}
		for _, p := range c.Series {
			if p.Tokens != nil {
				sum.Ended += p.Tokens.Ended
				sum.Met += p.Tokens.Met
				sum.Prompt += p.Tokens.Prompt
				sum.Cached += p.Tokens.Cached
				sum.Output += p.Tokens.Output
			}
		}
		return sum.Ended > 0
	})
	if n := int64(sum.Ended); n > int64(asked) || sum.Met != sum.Ended || sum.Prompt != 300*n || sum.Cached != 256*n || sum.Output != 5*n {
		t.Errorf("%+v", sum)
	}
	_, text, _ := get(t, g.admin+"/v1/services")
	var services []api.Service
	if err := json.Unmarshal([]byte(text), &services); err != nil || services[0].Tokens == nil || services[0].Tokens.Ended < sum.Ended || services[0].Tokens.Output != 5*int64(services[0].Tokens.Ended) {
		t.Errorf("the last minute of %s", text)
	}
}

// An objective that cannot be met is missed, and a service without one is not
// measured.
func TestTheObjective(t *testing.T) {
	g := start(t, service("chat", "slo {\n ttft = \"1ns\"\n}\n", replicaBlock(engine(t), "h100", 1)))
	ask(t, g, chatBody("hello", true))
	eventually(t, "the miss is counted", func() bool {
		_, metrics, _ := get(t, g.admin+"/metrics")
		return strings.Contains(metrics, `aliquot_gateway_slo_total{class="h100",result="missed",service="chat"} 1`)
	})
	plain := start(t, service("chat", replicaBlock(engine(t), "h100", 1)))
	ask(t, plain, chatBody("hello", true))
	if _, metrics, _ := get(t, plain.admin+"/metrics"); strings.Contains(metrics, "ttft") {
		t.Error("a service that counts in slots has a time to the first token")
	}
}

// The time to the end is promised, too. What less urgent requests take is nobody's miss,
// and no demand that an objective counts.
func TestWhomTheObjectiveIsPromisedTo(t *testing.T) {
	text := "priorities = [\"now\", \"later\"]\n" + service("chat", "slo {\n e2e = \"1ns\"\n quantile = 0.95\n priority = \"now\"\n}\n", replicaBlock(engine(t), "h100", 1))
	g := start(t, text)
	send := func(priority string) {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody("hello", true)))
		r.Header.Set("X-Priority", priority)
		do(t, r)
	}
	seconds := 0
	seen := func() (sum api.Tokens) {
		_, body, _ := get(t, g.admin+"/v1/services/chat/concurrency?window=1m")
		var answer api.Concurrency
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		seconds = len(answer.Series)
		if answer.Quantile != 0.95 {
			t.Fatalf("promised to %v of the requests, want 0.95", answer.Quantile)
		}
		for _, p := range answer.Series {
			if p.Tokens != nil {
				sum.Add(p.Tokens)
			}
		}
		return sum
	}
	eventually(t, "the gateway counts from a second's start", func() bool { seen(); return seconds > 0 })
	send("later")
	eventually(t, "the request that may wait is counted", func() bool { return seen().Ended == 1 })
	if got := seen(); got.Arrived != 0 || got.Met+got.Missed != 0 {
		t.Errorf("a request that nothing is promised to: %+v", got)
	}
	send("now")
	eventually(t, "the other is counted", func() bool { return seen().Ended == 2 })
	got := seen()
	if got.Arrived == 0 || got.Missed != 1 || got.Met != 0 {
		t.Errorf("a request that 1 ns is promised to: %+v", got)
	}
}

// What is compressed cannot be counted: engines are asked for plain answers, others
// are asked as the client asks.
func TestEnginesAreAskedForPlainAnswers(t *testing.T) {
	asked := make(chan string, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Accept-Encoding") })
	for policy, want := range map[string]string{"policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n": "identity", "": "gzip, br"} {
		g := start(t, service("chat", policy, replicaBlock(replica, "h100", 1)))
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody("hello", false)))
		r.Header.Set("Accept-Encoding", "gzip, br")
		do(t, r)
		if got := <-asked; got != want {
			t.Errorf("with %q the replica is asked for %q, want %q", policy, got, want)
		}
	}
}
