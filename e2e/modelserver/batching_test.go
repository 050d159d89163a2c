package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/e2e/modelserver/engine"
	"aliquot.example/e2e/modelserver/hardware"
)

// pipes is a listener with in-memory connections, for real HTTP in simulated time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serving starts a server that behaves like vLLM on a hardware class, and returns a client for it.
func serving(t *testing.T, class string, change func(*options)) *http.Client {
	o := usual()
	o.model, o.engine, o.slots = "m", class, vllmSeqs
	if change != nil {
		change(&o)
	}
	s := newServer(o)
	ctx, cancel := context.WithCancel(context.Background())
	s.load(ctx, &hardware.Hardware{Variant: "cpu"})
	p := newPipes()
	web := &http.Server{Handler: s.routes()}
	done := make(chan struct{})
	go func() {
		web.Serve(p)
		close(done)
	}()
	transport := &http.Transport{DialContext: p.dial, MaxIdleConnsPerHost: 1000}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		web.Close()
		cancel()
		<-done
	})
	return &http.Client{Transport: transport}
}

// event is one chunk of a stream and the time of its arrival.
type event struct {
	answer
	at time.Time
}

// ask sends a request and returns its status and events. An answer that is not streamed is one
// event.
func ask(t *testing.T, c *http.Client, path, body string) (int, []event) {
	res, err := c.Post("http://m"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	var out []event
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		text := lines.Bytes()
		if len(text) == 0 || string(text) == "data: [DONE]" {
			continue
		}
		e := event{at: time.Now()}
		if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("data: ")), &e.answer); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		out = append(out, e)
	}
	return res.StatusCode, out
}

func prompt(tokens int) string { return strings.Repeat("abcd", tokens)[2:] } // with its quotes

// What a client sees is exactly what the engine computes for the same requests at the same times.
func TestTheWireAgreesWithTheModel(t *testing.T) {
	type call struct {
		at             time.Duration
		prompt, output int
		first, end     time.Duration
	}
	calls := make([]call, 80)
	for i := range calls {
		calls[i] = call{at: time.Duration(i) * 173 * time.Millisecond, prompt: 100 + i*i*977%6000, output: 2 + i*37%120}
	}
	h, _ := engine.Class("a100")
	e := engine.New(engine.Config{Hardware: h})
	next, left := 0, len(calls)
	for now := time.Duration(0); left > 0; {
		for next < len(calls) && calls[next].at <= now {
			c := &calls[next]
			if err := e.Add(&engine.Sequence{Prompt: c.prompt, Output: c.output, Value: c}); err != nil {
				t.Fatal(err)
			}
			next++
		}
		took, ok := e.Begin()
		if !ok {
			now = calls[next].at
			continue
		}
		end := now + took
		for ; next < len(calls) && calls[next].at < end; next++ {
			c := &calls[next]
			_ = e.Add(&engine.Sequence{Prompt: c.prompt, Output: c.output, Value: c})
		}
		now = end
		for _, s := range e.End() {
			c := s.Value.(*call)
			if s.Made() == 1 {
				c.first = now
			}
			if s.Made() == s.Output {
				c.end = now
				left--
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		client := serving(t, "a100", nil)
		start := time.Now()
		for i := range calls {
			go func() {
				c := calls[i]
				time.Sleep(c.at)
				// Prompts differ from their first word, so that none finds a cached prefix.
				text := fmt.Sprintf("%04d", i) + strings.Repeat("word", c.prompt-1)
				status, events := ask(t, client, "/v1/completions", fmt.Sprintf(`{"prompt": %q, "max_tokens": %d, "stream": true}`, text[2:], c.output))
				if status != http.StatusOK || len(events) != c.output {
					t.Errorf("request %d: %d with %d events, want %d", i, status, len(events), c.output)
					return
				}
				first, end := events[0].at.Sub(start), events[len(events)-1].at.Sub(start)
				if first != c.first || end != c.end {
					t.Errorf("request %d: first token at %s and last at %s, the model says %s and %s", i, first, end, c.first, c.end)
				}
			}()
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
	})
}

func TestStreamsOfAnEngineThatBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serving(t, "h100", nil)
		body := fmt.Sprintf(`{"messages": [{"role": "user", "content": %q}], "max_tokens": 50, "min_tokens": 3, "stream": true,
			"stream_options": {"include_usage": true, "continuous_usage_stats": true}}`, prompt(100))
		_, events := ask(t, c, "/v1/chat/completions", body)
		if len(events) != 5 {
			t.Fatalf("%d events, want the role, 3 tokens and the usage", len(events))
		}
		if d := events[0].Choices[0].Delta; d.Role != "assistant" || d.Content != "" {
			t.Errorf("first event: %+v", d)
		}
		for i, e := range events[1:4] {
			if d := e.Choices[0].Delta; d.Role != "" || d.Content == "" || e.Usage == nil || e.Usage.CompletionTokens != i+1 {
				t.Errorf("token %d: %+v %+v", i, d, e.Usage)
			}
		}
		if reason := events[3].Choices[0].FinishReason; reason == nil || *reason != "stop" {
			t.Errorf("the answer ends for %v, want stop", reason)
		}
		if u := events[4].Usage; u == nil || u.PromptTokens != 100 || u.CompletionTokens != 3 || u.TotalTokens != 103 || u.Details == nil || u.Details.Cached != 0 {
			t.Errorf("usage: %+v", u)
		}
		// The same conversation continues: the full blocks of its earlier part are cached.
		body = fmt.Sprintf(`{"messages": [{"role": "user", "content": %q}, {"role": "assistant", "content": "yes"}], "max_tokens": 1}`, prompt(100))
		if _, events = ask(t, c, "/v1/chat/completions", body); len(events) != 1 || events[0].Usage.Details.Cached != 96 {
			t.Errorf("the second turn finds %+v, want 96 cached tokens", events[0].Usage.Details)
		}
		// Another role makes another prompt.
		body = fmt.Sprintf(`{"messages": [{"role": "system", "content": %q}], "max_tokens": 1}`, prompt(100))
		if _, events = ask(t, c, "/v1/chat/completions", body); events[0].Usage.Details.Cached != 0 {
			t.Errorf("a prompt of another role finds %d tokens", events[0].Usage.Details.Cached)
		}
	})
}

func TestMetricsHaveTheNamesOfVLLM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serving(t, "t4", func(o *options) { o.slots = 1 })
		for range 3 {
			go ask(t, c, "/v1/completions", fmt.Sprintf(`{"prompt": %q, "max_tokens": 40}`, prompt(1600)))
		}
		time.Sleep(2 * time.Second) // in the middle of the first answer
		res, err := c.Get("http://m/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var text bytes.Buffer
		text.ReadFrom(res.Body)
		for _, want := range []string{
			`vllm:num_requests_running{engine="0",model_name="m"} 1`,
			`vllm:num_requests_waiting{engine="0",model_name="m"} 2`,
			`vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.03`,
			`vllm:num_preemptions_total{engine="0",model_name="m"} 0`,
			`vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1600`,
			`vllm:prefix_cache_hits_total{engine="0",model_name="m"} 0`,
			`vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="3125"} 1`,
		} {
			if !strings.Contains(text.String(), "\n"+want) {
				t.Errorf("no line that begins %s", want)
			}
		}
		if t.Failed() {
			t.Log(text.String())
		}
		time.Sleep(time.Minute)
	})
}

func TestAnEngineRefusesWhatIsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serving(t, "a100", func(o *options) { o.longest = 1000 })
		status, _ := ask(t, c, "/v1/completions", fmt.Sprintf(`{"prompt": %q, "max_tokens": 600}`, prompt(500)))
		if status != http.StatusBadRequest {
			t.Errorf("status %d, want 400", status)
		}
		if status, _ = ask(t, c, "/v1/completions", `{"prompt": "x", "max_tokens": 2, "min_tokens": 3}`); status != http.StatusBadRequest {
			t.Errorf("min_tokens above max_tokens: status %d, want 400", status)
		}
		if status, _ = ask(t, c, "/v1/completions", fmt.Sprintf(`{"prompt": %q, "max_tokens": 500}`, prompt(500))); status != http.StatusOK {
			t.Errorf("a request that fits: status %d", status)
		}
	})
}

func TestAClientThatLeavesFreesTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serving(t, "a100", nil)
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://m/v1/completions", strings.NewReader(`{"prompt": "x", "max_tokens": 50000, "stream": true}`))
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cancel()
		res.Body.Close()
		time.Sleep(time.Second)
		m, err := c.Get("http://m/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Body.Close()
		var text bytes.Buffer
		text.ReadFrom(m.Body)
		if want := `vllm:num_requests_running{engine="0",model_name="m"} 0`; !strings.Contains(text.String(), want) {
			t.Errorf("no %s", want)
		}
	})
}

func TestSpeedupShortensEverything(t *testing.T) {
	took := map[float64]time.Duration{}
	for _, speedup := range []float64{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			c := serving(t, "l4", func(o *options) { o.speedup = speedup })
			start := time.Now()
			ask(t, c, "/v1/completions", `{"prompt": "x", "max_tokens": 100}`)
			took[speedup] = time.Since(start).Round(time.Millisecond)
		})
	}
	if took[1] < 3*time.Second || took[1].Round(10*time.Millisecond) != (4*took[4]).Round(10*time.Millisecond) {
		t.Errorf("100 tokens take %s, at 4 times the speed %s", took[1], took[4])
	}
}
