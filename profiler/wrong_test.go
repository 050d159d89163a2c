package profiler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/internal/profile"
)

// asked is the part of a completion request that a test server needs.
type asked struct {
	Prompt string `json:"prompt"`
	Tokens int    `json:"max_tokens"`
}

// streams streams a response like an engine, with faults for a test. pieces is the number of
// pieces, and usage is the reported usage.
func streams(w http.ResponseWriter, a asked, pieces int, usage string, end string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for range pieces {
		fmt.Fprint(w, `data: {"choices":[{"text":"x "}]}`+"\n\n")
		w.(http.Flusher).Flush()
	}
	if end != "" {
		fmt.Fprintf(w, `data: {"choices":[{"text":"","finish_reason":%q}]}`+"\n\n", end)
		fmt.Fprintf(w, `data: {"choices":[],"usage":%s}`+"\n\ndata: [DONE]\n\n", usage)
	}
}

func usageOf(a asked, output int) string {
	prompt := len(a.Prompt) / 4
	return fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, prompt, output, prompt+output)
}

// against runs a short benchmark against a handler.
func against(t *testing.T, stall time.Duration, answer func(w http.ResponseWriter, r *http.Request, a asked)) (*Report, error) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/models":
			io.WriteString(w, `{"data":[{"id":"m","max_model_len":1000}]}`)
		case "/v1/completions":
			var a asked
			if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
				t.Error(err)
			}
			answer(w, r, a)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	return Run(t.Context(), Options{
		Server: &Server{URL: web.URL, HTTP: web.Client(), Stall: stall}, Time: 20 * time.Second,
		Design: profile.Design{Prompts: []int{40, 100, 200, 700}, Concurrencies: []int{1, 2}, Window: 16},
		Rounds: profile.Rounds{Min: 2, Max: 2, Precision: 1}, Prompt: 50, Output: 8,
	})
}

func TestAServerThatLiesIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		usage func(a asked) string
		want  string
	}{
		"two tokens more":  {func(a asked) string { return usageOf(a, a.Tokens+2) }, "but the request allows at most"},
		"two tokens fewer": {func(a asked) string { return usageOf(a, a.Tokens-2) }, "pieces"},
		"twice the tokens": {func(a asked) string { return usageOf(a, 2*a.Tokens) }, "but the request allows at most"},
		"a sum that is none": {func(a asked) string {
			return strings.Replace(usageOf(a, a.Tokens), `"total_tokens":`, `"total_tokens":1`, 1)
		}, "in total"},
		"prompts of one length": {func(a asked) string {
			return fmt.Sprintf(`{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":%d}`, a.Tokens, a.Tokens+7)
		}, "want 0.2 to 8 tokens per word"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := against(t, time.Minute, func(w http.ResponseWriter, _ *http.Request, a asked) {
				streams(w, a, a.Tokens, c.usage(a), "length")
			})
			if err != nil {
				t.Fatal(err)
			}
			if !report.Faults.has(Inconsistent) || !strings.Contains(report.Faults[0].Detail, c.want) {
				t.Errorf("faults %v, want a lie about %q", report.Faults, c.want)
			}
			if report.Believed() == nil {
				t.Error("what a liar said would be kept")
			}
		})
	}
}

func TestAServerThatDoesWrongIsNamed(t *testing.T) {
	honest := func(w http.ResponseWriter, a asked) { streams(w, a, a.Tokens, usageOf(a, a.Tokens), "length") }
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, a asked)
		kind   Kind
		detail string
		fatal  bool
	}{
		"an error": {func(w http.ResponseWriter, _ *http.Request, _ asked) {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"error":{"message":"CUDA out\nof memory"}}`)
		}, Failed, "CUDA out of memory", true},
		"no answer": {func(_ http.ResponseWriter, r *http.Request, _ asked) { <-r.Context().Done() }, Stalled, "after 0 pieces", true},
		"silence in the middle": {func(w http.ResponseWriter, r *http.Request, a asked) {
			streams(w, a, 3, "", "")
			<-r.Context().Done()
		}, Stalled, "after 3 pieces", true},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request, a asked) { streams(w, a, 3, "", "") }, Cut, "after 3 pieces", true},
		"no text":        {func(w http.ResponseWriter, _ *http.Request, a asked) { streams(w, a, 0, usageOf(a, 0), "stop") }, Failed, "without any text", true},
		"an error in a stream": {func(w http.ResponseWriter, _ *http.Request, a asked) {
			streams(w, a, 2, "", "")
			io.WriteString(w, `data: {"error":{"message":"engine is dead"}}`+"\n\n")
		}, Failed, "engine is dead", true},
		"full": {func(w http.ResponseWriter, _ *http.Request, a asked) {
			if len(a.Prompt) > 2000 {
				http.Error(w, "too many requests", http.StatusTooManyRequests)
				return
			}
			honest(w, a)
		}, Refused, "too many requests", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stall := time.Minute
			if c.kind == Stalled {
				stall = time.Second
			}
			report, err := against(t, stall, c.answer)
			if c.fatal {
				if err == nil || !strings.Contains(err.Error(), string(c.kind)+": ") || !strings.Contains(err.Error(), c.detail) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("got %v, want %s: … %s", err, c.kind, c.detail)
				}
				return
			}
			if err != nil || !report.Faults.has(c.kind) || len(report.Left) == 0 {
				t.Fatalf("%v, faults %v, left out %q", err, report.Faults, report.Left)
			}
		})
	}
}

func TestAServerThatIsNotThere(t *testing.T) {
	web := httptest.NewServer(nil)
	url := web.URL
	web.Close()
	_, err := Run(context.Background(), Options{Server: &Server{URL: url, HTTP: http.DefaultClient, Stall: time.Second}, Time: time.Minute})
	if err == nil || !strings.Contains(err.Error(), url) || !strings.Contains(err.Error(), "check that the server runs") {
		t.Errorf("got %v", err)
	}
}

// A server that only supports chat and does not know ignore_eos gets requests that it accepts.
func TestTheFormThatAServerKnowsIsFound(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		json.NewDecoder(r.Body).Decode(&body)
		if r.URL.Path != "/v1/chat/completions" || body["ignore_eos"] != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		a := asked{Prompt: "to count", Tokens: int(body["max_tokens"].(float64))}
		streams(w, a, a.Tokens, usageOf(a, a.Tokens), "length")
	}))
	defer web.Close()
	r := &runner{Options: Options{Server: &Server{URL: web.URL, HTTP: web.Client(), Stall: time.Minute}}}
	if err := r.findForm(t.Context()); err != nil || r.form != (form{chat: true}) {
		t.Errorf("asks as %+v, %v", r.form, err)
	}
}

// A server that does not report its context length declines a longer prompt. This is not a fault.
func TestALimitOfTheContextIsNoFault(t *testing.T) {
	report, err := against(t, time.Minute, func(w http.ResponseWriter, _ *http.Request, a asked) {
		if len(a.Prompt) > 2000 {
			http.Error(w, `{"error":{"message":"at most 500 tokens"}}`, http.StatusBadRequest)
			return
		}
		streams(w, a, a.Tokens, usageOf(a, a.Tokens), "length")
	})
	if err != nil || len(report.Faults) > 0 {
		t.Fatalf("%v, faults %v", err, report.Faults)
	}
	if !slices.ContainsFunc(report.Left, func(s string) bool {
		return strings.Contains(s, "refuses it: 400 Bad Request: at most 500 tokens")
	}) {
		t.Errorf("not measured: %q", report.Left)
	}
}

// A server that has answered a prompt declines another one as long: that is a fault, whatever it
// says of the reason.
func TestAServerThatDeclinesWhatItTookIsNamed(t *testing.T) {
	var long atomic.Int64
	report, err := against(t, time.Minute, func(w http.ResponseWriter, _ *http.Request, a asked) {
		if len(a.Prompt) > 2000 && long.Add(1) > 1 {
			http.Error(w, `{"error":{"message":"at most 500 tokens"}}`, http.StatusBadRequest)
			return
		}
		streams(w, a, a.Tokens, usageOf(a, a.Tokens), "length")
	})
	if err != nil || !report.Faults.has(Failed) {
		t.Errorf("%v, faults %v, left out %q", err, report.Faults, report.Left)
	}
}

// A limit of the server does not hide what else it did wrong in the same wave.
func TestALimitHidesNoFault(t *testing.T) {
	r := &runner{waves: map[profile.Cell][]profile.Wave{{Prompt: 40, Concurrency: 1}: {{}}}}
	long := profile.Cell{Prompt: 700, Concurrency: 3}
	declined := &Fault{Kind: Failed, Detail: "400 Bad Request", status: http.StatusBadRequest}
	if err := r.tooLarge(long, []error{declined, context.Canceled, nil}); err == nil {
		t.Error("a declined prompt is no limit")
	}
	for _, other := range []error{&Fault{Kind: Cut, Detail: "after 3 pieces"}, &Fault{Kind: Failed, status: 500}, io.ErrUnexpectedEOF} {
		if err := r.tooLarge(long, []error{declined, other}); err != nil {
			t.Errorf("%v is hidden by %v", other, err)
		}
	}
}

// A given request is sent unchanged, and the result is responses per second.
func TestAGivenRequest(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		if r.URL.Path != "/v2/models/x/infer" || string(body) != `{"inputs":[]}` {
			t.Errorf("%s with %q", r.URL.Path, body)
		}
		io.WriteString(w, "{}")
	}))
	defer web.Close()
	report, err := Run(t.Context(), Options{
		Server: &Server{URL: web.URL, HTTP: web.Client(), Stall: time.Minute}, Time: 20 * time.Second,
		Design: profile.Design{Concurrencies: []int{1, 3}}, Rounds: profile.Rounds{Min: 2, Max: 3, Precision: 1},
		Post: &Post{Path: "/v2/models/x/infer", Body: []byte(`{"inputs":[]}`)}, Objective: Objective{E2E: time.Minute},
	})
	if err != nil || len(report.Closed) != 2 || report.Best == nil || !(report.Best.Rate > 0) || len(report.Faults) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func FuzzReadStream(f *testing.F) {
	f.Add("data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n")
	f.Add("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\ndata: {\"error\":{\"message\":\"no\"}}\n")
	f.Add("data: {\"error\":\"no\"}\n: comment\ndata: x\n")
	f.Fuzz(func(t *testing.T, text string) {
		a := profile.Answer{Asked: 10, Prompt: -1, Output: -1, Total: -1, Cached: -1}
		now := 0.0
		err := readStream(strings.NewReader(text), &a, func() float64 { now++; return now })
		if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("an error of several lines: %q", err)
		}
		if len(a.Tokens) > 0 {
			a.End = now + 1
			_, _, _ = a.UsageProblem(), a.Made(), profile.WaveOf([]profile.Answer{a})
		}
	})
}
