package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const joins = "policy = \"tokens\"\nengine {\n metrics = \"off\"\n join_answers = true\n}\n"

// Engines stream what clients want whole; what the client gets is one object, and the
// engine's tokens were seen.
func TestAnswersAreJoined(t *testing.T) {
	asked := make(chan string, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked <- string(body)
		if int64(len(body)) != r.ContentLength {
			t.Errorf("%d bytes, and Content-Length is %d", len(body), r.ContentLength)
		}
		if !strings.Contains(string(body), `"stream":true`) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"whole":true}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("X-Request-Id", "7")
		for event := range strings.SplitAfterSeq(modelAnswer, "\n\n") {
			io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
	})
	g := start(t, service("chat", joins, "model = \"real\"\n", objective, replicaBlock(replica, "h100", 1)))
	const extra = `"stream":true,"stream_options":{"include_usage":true},`
	streamed := strings.Repeat("xylophone-answer ", 5)
	for _, c := range []struct{ body, sent string }{
		{`{"model":"m","messages":[]}`, `{` + extra + `"model":"real","messages":[]}`},
		{`{"stream":false,"model":"m"}`, `{"stream_options":{"include_usage":true},"stream":true,"model":"real"}`},
		{`{"stream":null,"stream_options":null}`, `{"stream":true,"stream_options":{"include_usage":true}}`},
		{`{"str\u0065am":false,"stream":false}`, `{"stream_options":{"include_usage":true},"str\u0065am":true,"stream":true}`},
		{`{}`, `{` + strings.TrimSuffix(extra, ",") + `}`},
		{`{"n":2,"best_of":3}`, ""}, {`{"stream_options":{}}`, ""}, {`{"prompt_logprobs":1}`, ""}, {`{"stream":1}`, ""}, {`{"stream":"true"}`, ""}, {`{"logprobs":true,"top_logprobs":20}`, ""}, {`{"kv_transfer_params":{}}`, ""}, {`no JSON`, ""}, {`{"model":"real"} `, `{` + extra + `"model":"real"} `},
	} {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		status, text, h := do(t, r)
		want := c.sent
		if want == "" {
			want = c.body
		}
		if got := <-asked; status != 200 || got != want {
			t.Errorf("%s: %d, the engine was sent %s, want %s", c.body, status, got, want)
		}
		if c.sent == "" {
			if text != `{"whole":true}` {
				t.Errorf("%s: %s", c.body, text)
			}
			continue
		}
		var answer struct {
			Choices []struct {
				Message struct{ Role, Content string }
			}
			Usage struct {
				Completion int `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Choices) != 1 || answer.Choices[0].Message.Content != streamed || answer.Usage.Completion != 5 {
			t.Errorf("%s: %v: %s", c.body, err, text)
		}
		if h.Get("Content-Type") != "application/json" || h.Get("Content-Length") != fmt.Sprint(len(text)) || h.Get("Cache-Control") != "" || h.Get("X-Request-Id") != "7" {
			t.Errorf("%s: %v", c.body, h)
		}
	}
	// A client that asks for a stream gets it as it is.
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(`{"stream":true}`))
	if _, text, _ := do(t, r); text != modelAnswer || <-asked != `{"stream":true}` {
		t.Errorf("a stream is %q", text)
	}
	eventually(t, "first tokens of joined answers are recorded", func() bool {
		_, metrics, _ := get(t, g.admin+"/metrics")
		return strings.Contains(metrics, `aliquot_gateway_ttft_seconds_count{class="h100",service="chat"} 7`) &&
			strings.Contains(metrics, `aliquot_gateway_slo_total{class="h100",result="met",service="chat"} 7`)
	})
}

// Nothing has been sent when a stream that is joined breaks or tells an error: the
// client gets an error, with its status, and the replica the blame.
func TestStreamsThatFailBeforeTheyAreJoined(t *testing.T) {
	const half = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
	events := map[string]string{
		"told":  half + "data: {\"error\":{\"message\":\"the engine died\",\"code\":500}}\n\ndata: [DONE]\n\n",
		"early": half,
		"junk":  half + "data: {\n\n" + half,
	}
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for name, text := range events {
			if strings.Contains(string(body), name) {
				io.WriteString(w, text)
			}
		}
		if strings.Contains(string(body), "broken") {
			io.WriteString(w, half)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	for name, want := range map[string]string{
		"told":   `500 {"error":{"message":"the engine died","code":500}}`,
		"early":  `502 {"error":{"message":"the replica ended the exchange before its answer was complete","type":"server_error","param":null,"code":"broken"}}`,
		"junk":   `502 {"error":{"message":"the replica ended the exchange before its answer was complete","type":"server_error","param":null,"code":"broken"}}`,
		"broken": `502 {"error":{"message":"the replica ended the exchange before its answer was complete","type":"server_error","param":null,"code":"broken"}}`,
	} {
		g := start(t, service("chat", joins, objective, "queue {\n eject_failures = 1\n}\n", replicaBlock(replica, "h100", 1)))
		status, text := ask(t, g, chatBody(name, false))
		if got := fmt.Sprintf("%d %s", status, strings.TrimSpace(text)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		eventually(t, name+" is missed", func() bool {
			_, metrics, _ := get(t, g.admin+"/metrics")
			return strings.Contains(metrics, `aliquot_gateway_slo_total{class="h100",result="missed",service="chat"} 1`) && replicaState(t, g).InFlight == 0
		})
	}
}

// Each tenant's requests reach the engine with a salt of its own, whatever they say
// themselves; what cannot be salted is refused.
func TestTenantsAreSalted(t *testing.T) {
	asked := make(chan string, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked <- string(body)
	})
	tenants := "tenants {\n header = \"X-Tenant\"\n}\n"
	g := start(t, tenants+service("chat", "engine {\n cache_salt = \"tenant\"\n}\n", replicaBlock(replica, "h100", 1)))
	salt := func(tenant, body string) string {
		t.Helper()
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/completions", strings.NewReader(body))
		r.Header.Set("X-Tenant", tenant)
		if status, text, _ := do(t, r); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		var sent map[string]any
		got := <-asked
		if err := json.Unmarshal([]byte(got), &sent); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		text, _ := sent["cache_salt"].(string)
		if len(text) < 40 {
			t.Errorf("the salt of %s is %q", body, text)
		}
		return text
	}
	a, b := salt("a", `{"prompt":"x"}`), salt("b", `{"prompt":"x"}`)
	if a == b || a != salt("a", `{}`) {
		t.Error("a tenant has no salt of its own")
	}
	own := salt("a", `{"cache_salt":"s","prompt":"x"}`)
	if own == a || own == salt("b", `{"cache_salt":"s"}`) || own != salt("a", `{"cache_salt":"t","cache_salt":"s"}`) || own != salt("a", `{"cache\u005fsalt":"s"}`) {
		t.Error("a client's own salt does not divide the tenant's")
	}
	for name, body := range map[string]string{"no object": `["prompt"]`, "not all": `{"prompt":"x"`, "more": `{"prompt":"x"}{"cache_salt":"s"}`} {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/completions", strings.NewReader(body))
		if status, text, _ := do(t, r); status != http.StatusBadRequest || !strings.Contains(text, "separates the caches of tenants") {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/completions", strings.NewReader("\x1f\x8b"))
	r.Header.Set("Content-Encoding", "gzip")
	if status, _, _ := do(t, r); status != http.StatusBadRequest {
		t.Errorf("compressed: %d", status)
	}
	other, _ := http.NewRequest(http.MethodPost, g.url+"/v1/embeddings", strings.NewReader(`{"input":"x"}`))
	if do(t, other); <-asked != `{"input":"x"}` {
		t.Error("a request that generates nothing was changed")
	}
}
