package meter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	sse = "text/event-stream; charset=utf-8"
	js  = "application/json"
)

// answers of each shape, as the servers' documentation shows them.
var chat = `data: {"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"He said \"hi\\"},"finish_reason":null}]}

: keep-alive

data: {"id":"a","choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}

data: {"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}

data: {"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: {"id":"a","choices":[],"usage":{"prompt_tokens":12,"total_tokens":17,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}}

data: [DONE]

`

var responses = `event: response.created
data: {"type":"response.created","response":{"id":"r","instructions":"be brief","usage":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","delta":"Hi","sequence_number":3}

event: response.output_text.delta
data: {"delta":" there","type":"response.output_text.delta"}

event: response.output_text.done
data: {"type":"response.output_text.done","text":"Hi there"}

event: response.completed
data: {"type":"response.completed","response":{"output":[{"content":[{"text":"Hi there","usage":{"output_tokens":77}}]}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":123}}}

`

var messages = `event: message_start
data: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":25,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"usage\":"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}

`

type reading struct {
	Tokens, Text int64
	Usage        Usage
}

func readAll(kind string, pieces ...string) reading {
	m := New(kind, "")
	var tokens int64
	for _, p := range pieces {
		tokens += m.Feed([]byte(p))
	}
	before := m.Tokens()
	m.End()
	return reading{tokens + m.Tokens() - before, m.Text(), m.Usage()}
}

func TestAnswers(t *testing.T) {
	continuous := ""
	for i := 1; i <= 3; i++ {
		continuous += fmt.Sprintf("data: {\"choices\":[{\"text\":\"ab\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%d}}\r\n\r\n", 4*i)
	}
	for name, c := range map[string]struct {
		kind, text string
		tokens     int64
		usage      Usage
	}{
		"chat":                     {sse, chat, 3, Usage{12, 8, 5}},
		"responses":                {sse, responses, 2, Usage{36, 4, 87}},
		"messages":                 {sse, messages, 2, Usage{132, 100, 15}},
		"usage with each event":    {sse, continuous, 12, Usage{9, -1, 12}},
		"no usage":                 {sse, "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata:{\"choices\":[{\"text\":\"b\"}]}\n\n", 2, Usage{-1, -1, -1}},
		"SGLang's own":             {sse, "data: {\"text\":\"a b\",\"meta_info\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"cached_tokens\":1}}\n\n", 2, Usage{4, 1, 2}},
		"TGI's own":                {sse, "data:{\"token\":{\"id\":1,\"text\":\"a\"}}\n\n", 1, Usage{-1, -1, -1}},
		"plain events":             {sse, "data: a\ndata: b\n\ndata\n\ndata:\n\nid: 1\n\ndata: [DONE]\n\ndata: [DONE\n\n", 2, Usage{-1, -1, -1}},
		"an event over two lines":  {sse, "data: {\"choices\":[{\ndata: \"text\":\"a\"}]}\r\rdata: {}\r\r", 1, Usage{-1, -1, -1}},
		"an event that is cut off": {sse, "data: {\"choices\":[{\"text\":\"a\"", 1, Usage{-1, -1, -1}},
		"an error":                 {sse, "data: {\"error\":{\"message\":\"no\",\"code\":500}}\n\n", 0, Usage{-1, -1, -1}},
		"a whole chat":             {js, `{"choices":[{"message":{"role":"assistant","content":"a b"}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":null}}`, 0, Usage{3, -1, 2}},
		"a whole message":          {js, `{"type":"message","content":[{"type":"tool_use","input":{"usage":{"output_tokens":99}}}],"usage":{"input_tokens":3,"output_tokens":2,"cache_read_input_tokens":4}}`, 0, Usage{7, 4, 2}},
		"an embedding":             {js, `{"data":[{"embedding":[0.1,-2e-3,7]}],"usage":{"prompt_tokens":8,"total_tokens":8}}`, 0, Usage{8, -1, -1}},
		"odd numbers":              {js, `{"usage":{"prompt_tokens":-3,"completion_tokens":99999999999999999999,"cached_tokens":2.5}}`, 0, Usage{-1, 2, maxTokens}},
		"a list":                   {js, `[{"usage":{"prompt_tokens":3}}]`, 0, Usage{-1, -1, -1}},
		"text":                     {"text/plain", chat, 0, Usage{-1, -1, -1}},
	} {
		got := readAll(c.kind, c.text)
		if got.Tokens != c.tokens || got.Usage != c.usage {
			t.Errorf("%s: %+v, want %d tokens and %+v", name, got, c.tokens, c.usage)
		}
		if one := readAll(c.kind, strings.Split(c.text, "")...); one != got {
			t.Errorf("%s, byte by byte: %+v, want %+v", name, one, got)
		}
	}
	if got := New(sse, "gzip"); got.Feed([]byte(chat)) != 0 || got.Streams() {
		t.Error("a compressed answer was read as if it were not")
	}
	if got := readAll(js, `{"choices":[{"message":{"content":"12345"}}],"object":"not this"}`).Text; got != 5 {
		t.Errorf("%d bytes of generated text", got)
	}
}

// The first token is counted with the event that holds it, not with the role.
func TestWhenTokensCome(t *testing.T) {
	m := New(sse, "")
	var came []int64
	for _, event := range strings.SplitAfter(chat, "\n\n") {
		came = append(came, m.Feed([]byte(event)))
	}
	if got := fmt.Sprint(came); got != "[0 1 0 1 1 0 0 0 0]" {
		t.Errorf("tokens by event: %s", got)
	}
}

// Events written by encoding/json are read as they were meant, whatever else they
// hold and wherever they are cut.
func TestEventsAreReadAsTheyAreMeant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		tokens, usage := int64(0), Usage{-1, -1, -1}
		for range rapid.IntRange(0, 8).Draw(t, "events") {
			content := rapid.String().Draw(t, "content")
			delta := map[string]any{"content": content, "role": rapid.String().Draw(t, "role")}
			if rapid.Bool().Draw(t, "reasoning") {
				delta = map[string]any{"reasoning": content}
			}
			event := map[string]any{
				"choices": []any{map[string]any{"delta": delta, "logprobs": rapid.SliceOf(rapid.Float64()).Draw(t, "logprobs")}},
				"id":      rapid.String().Draw(t, "id"),
				"extra":   map[string]any{"usage": map[string]any{"prompt_tokens": 5}},
			}
			if content != "" {
				tokens++
			}
			if rapid.Bool().Draw(t, "tells") {
				usage.Prompt = rapid.Int64Range(0, 1e6).Draw(t, "prompt")
				event["usage"] = map[string]any{"prompt_tokens": usage.Prompt}
			}
			encoded, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "data: %s\n\n", encoded)
		}
		all := text.String()
		var pieces []string
		for rest := all; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if got := readAll(sse, pieces...); got.Tokens != tokens || got.Usage != usage {
			t.Fatalf("%+v of %s, want %d tokens and %+v", got, all, tokens, usage)
		}
	})
}

// Any bytes, cut in any way, read the same.
func FuzzFeed(f *testing.F) {
	for _, s := range []string{chat, responses, messages, "data: {\"a\\\":\"}}}]]", "\r\r\n\ndata:\r\n", "{\"usage\":{\"prompt_tokens\":1e5}}", "data: {{{{[[[[\"type\":\"delta\""} {
		f.Add([]byte(s), byte(1), true)
		f.Add([]byte(s), byte(3), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, step byte, streamed bool) {
		kind := js
		if streamed {
			kind = sse
		}
		all := readAll(kind, string(text))
		var pieces []string
		for size, rest := int(step)%7+1, text; len(rest) > 0; size = size*5%11 + 1 {
			n := min(size, len(rest))
			pieces, rest = append(pieces, string(rest[:n])), rest[n:]
		}
		if got := readAll(kind, pieces...); got != all {
			t.Fatalf("in pieces %+v, whole %+v", got, all)
		}
		u := all.Usage
		if all.Tokens < 0 || all.Text > int64(len(text)) || u.Prompt < -1 || u.Cached < -1 || u.Output < -1 || u.Prompt > 3*maxTokens || u.Output > maxTokens {
			t.Fatalf("%+v of %d bytes", all, len(text))
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-5f6a4f0c8e5d4a0d9a3e","object":"chat.completion.chunk","created":1764356000,"model":"Qwen/Qwen3-4B","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n")
	m := New(sse, "")
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		m.Feed(event)
	}
}

func BenchmarkEmbedding(b *testing.B) {
	text := []byte(`{"data":[{"embedding":[` + strings.Repeat("0.0123456,-0.7654321,", 2000) + `1]}]}`)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		m := New(js, "")
		m.Feed(text)
	}
}
