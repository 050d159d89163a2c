package join

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

type object = map[string]any

// joined feeds a stream in pieces of random length.
func joined(r *rand.Rand, stream string) *Answer {
	var a Answer
	for p := []byte(stream); len(p) > 0; {
		n := 1 + r.IntN(min(len(p), 97))
		a.Feed(p[:n])
		p = p[n:]
	}
	a.End()
	return &a
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// Whatever an engine could have answered in one piece, cut into a stream in any way in
// which engines cut, is joined to what it was.
func TestJoinedIsWhatWasSplit(t *testing.T) {
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 1))
		whole := randomAnswer(r)
		a := joined(r, split(r, whole))
		if a.Err() != nil {
			t.Fatalf("seed %d: %v", seed, a.Err())
		}
		text := a.Whole()
		want, _ := json.Marshal(whole)
		if got, want := decode(t, text), decode(t, want); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n got %s\nwant %s", seed, text, want)
		}
	}
}

// words has what JSON escapes, what takes several bytes and what needs two escapes.
var words = []string{"", " ", "the ", "\"quoted\"", "\\", "\n\n", "data: [DONE]", "é", "日本", "😀", "\u2028", "<|tool|>", "null", "\x01", "}{"}

func randomText(r *rand.Rand, most int) string {
	var b strings.Builder
	for range r.IntN(most + 1) {
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String()
}

// someText is never empty.
func someText(r *rand.Rand, most int) string { return "x" + randomText(r, most) }

func randomAnswer(r *rand.Rand) object {
	chat := r.IntN(3) > 0
	out := object{
		"id": "id-" + randomText(r, 2), "created": 1_700_000_000 + r.IntN(1000), "model": someText(r, 2), "object": "text_completion",
		"usage": object{"prompt_tokens": r.IntN(9999), "completion_tokens": 7, "total_tokens": 9e15, "prompt_tokens_details": object{"cached_tokens": r.IntN(99)}},
	}
	if r.IntN(2) == 0 {
		out["system_fingerprint"] = "fp_1"
	}
	if r.IntN(4) == 0 {
		out["service_tier"] = nil
	}
	if r.IntN(4) == 0 {
		out["metrics"] = object{"time": 0.25, "list": []any{1, 2}}
	}
	var choices []any
	for i := range 1 + r.IntN(4) {
		c := object{"index": i, "finish_reason": []any{"stop", "length", "tool_calls", "content_filter"}[r.IntN(4)]}
		if r.IntN(2) == 0 {
			c["stop_reason"] = []any{nil, "</s>", 128001}[r.IntN(3)]
		}
		if r.IntN(4) == 0 {
			c["token_ids"] = randomNumbers(r)
		}
		if chat {
			c["message"] = randomMessage(r)
			c["logprobs"] = randomLogprobs(r)
		} else {
			c["text"] = randomText(r, 12)
			if r.IntN(2) == 0 {
				c["logprobs"] = object{"tokens": []any{"a", "b"}, "token_logprobs": []any{nil, -0.5}, "top_logprobs": []any{nil, object{"b": -0.5}}, "text_offset": []any{0, 1}}
			} else {
				c["logprobs"] = nil
			}
		}
		choices = append(choices, c)
	}
	if out["choices"] = choices; chat {
		out["object"] = "chat.completion"
	}
	return out
}

func randomNumbers(r *rand.Rand) []any {
	out := []any{}
	for range r.IntN(6) {
		out = append(out, r.IntN(150_000))
	}
	return out
}

func randomLogprobs(r *rand.Rand) any {
	if r.IntN(2) == 0 {
		return nil
	}
	list := []any{}
	for range 1 + r.IntN(5) {
		list = append(list, object{"token": randomText(r, 2), "logprob": -r.Float64(), "bytes": []any{104, 105}, "top_logprobs": []any{object{"token": "x", "logprob": -1.5}}})
	}
	return object{"content": list, "refusal": nil}
}

// randomMessage is a message as servers give it whole: without text beside calls of
// tools or reasoning the content is null.
func randomMessage(r *rand.Rand) object {
	m := object{"role": "assistant", "content": randomText(r, 12)}
	other := false
	switch r.IntN(5) {
	case 0:
		other = true
		var calls []any
		for range 1 + r.IntN(3) {
			calls = append(calls, object{"id": "call-" + someText(r, 1), "type": "function", "function": object{"name": someText(r, 1), "arguments": randomText(r, 8)}})
		}
		m["tool_calls"] = calls
	case 1:
		other = true
		m["function_call"] = object{"name": someText(r, 1), "arguments": randomText(r, 8)}
	case 2:
		m["refusal"] = randomText(r, 4)
	case 3:
		m["refusal"] = nil
	}
	if r.IntN(3) == 0 {
		other = true
		m[[]string{"reasoning_content", "reasoning"}[r.IntN(2)]] = someText(r, 9)
	}
	if r.IntN(5) == 0 {
		m["novel"] = object{"text": randomText(r, 5), "marks": randomNumbers(r), "score": 0.5, "sure": true}
	}
	if other && m["content"] == "" {
		m["content"] = nil
	}
	return m
}

// split is the reference: it cuts an answer into the events of a stream. What belongs
// to one choice keeps its order; choices are mixed.
func split(r *rand.Rand, whole object) string {
	var b strings.Builder
	send := func(o object) {
		text, _ := json.Marshal(o)
		switch r.IntN(6) {
		case 0:
			b.WriteString(": a comment\n")
		case 1:
			b.WriteString("event: message\r\n")
		case 2:
			b.WriteString("id: 3\n")
		}
		fmt.Fprintf(&b, "data:%s%s%s", []string{"", " "}[r.IntN(2)], text, []string{"\n\n", "\r\n\r\n", "\r\r"}[r.IntN(3)])
	}
	event := func(choices ...any) object {
		if choices == nil {
			choices = []any{}
		}
		o := object{"choices": choices}
		for k, v := range whole {
			switch k {
			case "object":
				if o[k] = v; v == "chat.completion" {
					o[k] = "chat.completion.chunk"
				}
			case "choices":
			case "usage":
				if r.IntN(2) == 0 {
					o[k] = nil
				}
			default:
				o[k] = v
			}
		}
		return o
	}
	var queues [][]any
	for _, c := range whole["choices"].([]any) {
		queues = append(queues, splitChoice(r, c.(object)))
	}
	for len(queues) > 0 {
		i := r.IntN(len(queues))
		send(event(queues[i][0]))
		if queues[i] = queues[i][1:]; len(queues[i]) == 0 {
			queues = append(queues[:i], queues[i+1:]...)
		}
	}
	last := event()
	last["usage"] = whole["usage"]
	send(last)
	b.WriteString("data: [DONE]\n\n")
	return b.String()
}

// splitChoice cuts one choice into parts.
func splitChoice(r *rand.Rand, c object) []any {
	var parts []any
	part := func(o object) object {
		o["index"] = c["index"]
		if _, ok := o["finish_reason"]; !ok && r.IntN(2) == 0 {
			o["finish_reason"] = nil
		}
		parts = append(parts, o)
		return o
	}
	lists := func(o object) object { return o }
	if ids, ok := c["token_ids"].([]any); ok {
		first := true
		lists = func(o object) object {
			n := r.IntN(len(ids) + 1)
			if first || n > 0 {
				o["token_ids"], ids, first = ids[:n], ids[n:], false
			}
			return o
		}
	}
	if text, ok := c["text"].(string); ok {
		for i, piece := range cut(r, text) {
			o := object{"text": piece}
			if i == 0 {
				o["logprobs"] = c["logprobs"]
			}
			part(lists(o))
		}
	} else {
		m := c["message"].(object)
		for _, d := range splitMessage(r, m) {
			part(lists(object{"delta": d}))
		}
		splitLogprobs(r, c["logprobs"], func(v any) { part(object{"delta": object{}, "logprobs": v}) })
	}
	end := object{"finish_reason": c["finish_reason"]}
	for _, k := range []string{"stop_reason"} {
		if v, ok := c[k]; ok {
			end[k] = v
		}
	}
	if m, ok := c["message"]; ok && m != nil {
		end["delta"] = object{}
	} else {
		end["text"] = ""
	}
	if _, ok := c["token_ids"]; ok {
		rest := []any{}
		for { // what is left of them
			o := lists(object{})
			if got, ok := o["token_ids"].([]any); ok {
				rest = append(rest, got...)
			}
			if want := c["token_ids"].([]any); count(parts)+len(rest) == len(want) {
				break
			}
		}
		end["token_ids"] = rest
	}
	part(end)
	return parts
}

func count(parts []any) int {
	n := 0
	for _, p := range parts {
		if ids, ok := p.(object)["token_ids"].([]any); ok {
			n += len(ids)
		}
	}
	return n
}

func splitLogprobs(r *rand.Rand, v any, send func(any)) {
	l, ok := v.(object)
	if !ok {
		send(nil)
		return
	}
	for list := l["content"].([]any); len(list) > 0; {
		n := 1 + r.IntN(len(list))
		send(object{"content": list[:n], "refusal": nil})
		list = list[n:]
	}
}

// cut cuts a text between characters, into at least one piece.
func cut(r *rand.Rand, text string) []string {
	out := []string{}
	for runes := []rune(text); len(runes) > 0; {
		n := 1 + r.IntN(len(runes))
		out, runes = append(out, string(runes[:n])), runes[n:]
	}
	if len(out) == 0 || r.IntN(3) == 0 {
		out = append(out, "")
	}
	return out
}

func splitMessage(r *rand.Rand, m object) []any {
	first := object{"role": m["role"]}
	content, told := m["content"].(string)
	switch {
	case !told && r.IntN(2) == 0:
		first["content"] = nil
	default:
		first["content"] = ""
	}
	out := []any{first}
	for k, v := range m {
		switch k {
		case "role", "content":
		case "tool_calls":
			for i, c := range v.([]any) {
				call := c.(object)
				f := call["function"].(object)
				out = append(out, object{"tool_calls": []any{object{"index": i, "id": call["id"], "type": "function", "function": object{"name": f["name"], "arguments": ""}}}})
				for _, piece := range cut(r, f["arguments"].(string)) {
					out = append(out, object{"tool_calls": []any{object{"index": i, "function": object{"arguments": piece}}}})
				}
			}
		case "function_call":
			f := v.(object)
			out = append(out, object{k: object{"name": f["name"]}})
			for _, piece := range cut(r, f["arguments"].(string)) {
				out = append(out, object{k: object{"arguments": piece}})
			}
		case "novel":
			f := v.(object)
			for _, piece := range cut(r, f["text"].(string)) {
				out = append(out, object{k: object{"text": piece}})
			}
			out = append(out, object{k: object{"marks": f["marks"], "score": f["score"], "sure": f["sure"]}})
		default:
			if text, ok := v.(string); ok {
				for _, piece := range cut(r, text) {
					out = append(out, object{k: piece})
				}
			} else {
				out = append(out, object{k: v})
			}
		}
	}
	for _, piece := range cut(r, content) {
		if told {
			out = append(out, object{"content": piece})
		}
	}
	return out
}

func TestWhatCannotBeJoined(t *testing.T) {
	const part = `data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}` + "\n\n"
	r := rand.New(rand.NewPCG(1, 1))
	for name, c := range map[string]struct{ stream, want string }{
		"empty":            {"", ErrEarly.Error()},
		"cut":              {part, ErrEarly.Error()},
		"cut in an event":  {part + `data: {"choi`, ErrEarly.Error()},
		"only done":        {"data: [DONE]\n\n", ErrEarly.Error()},
		"no JSON":          {part + "data: {\"choices\":\n\n", "is not JSON"},
		"not an object":    {"data: [1]\n\n", "is not a JSON object"},
		"several lines":    {"data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\ndata: \"finish_reason\":\"stop\"}]}\n\n", ""},
		"without a [DONE]": {strings.Replace(part, "null", `"stop"`, 1), ""},
		"no last line":     {part + "data: [DONE]\n", ""},
	} {
		err := joined(r, c.stream).Err()
		if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	a := Answer{size: MaxSize}
	if a.Feed([]byte(part)); a.Err() != ErrLarge {
		t.Errorf("an endless answer: %v", a.Err())
	}
}

// An error in the middle of a stream is the answer, with its status.
func TestErrorsInAStream(t *testing.T) {
	const part = `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n"
	for object, status := range map[string]int{
		`{"error":{"message":"the engine died","type":"InternalServerError","code":500}}`: 500,
		`{"error":{"message":"too long","code":400}}`:                                     400,
		`{"error":{"message":"x","code":"model_not_found"}}`:                              500,
		`{"object":"error","message":"x","code":404}`:                                     404,
		`{"error":"x"}`: 500,
	} {
		a := joined(rand.New(rand.NewPCG(1, 1)), part+"data: "+object+"\n\ndata: [DONE]\n\n")
		if text, got := a.Failed(); text != object || got != status {
			t.Errorf("%s: %q with %d, want %d", object, text, got, status)
		}
	}
	a := joined(rand.New(rand.NewPCG(1, 1)), `data: {"error":null,"choices":[{"finish_reason":"stop","text":"a"}]}`+"\n\n")
	if text, _ := a.Failed(); text != "" || a.Err() != nil {
		t.Errorf("no error is told as %q, %v", text, a.Err())
	}
}

// What comes out is as the engine writes it, member by member and byte by byte.
func TestBytesStayAsTheyCame(t *testing.T) {
	stream := `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"c","object":"chat.completion.chunk","created":2,"model":"m","choices":[{"index":0,"delta":{"content":"caf\u00e9 \ud83d"},"logprobs":null,"finish_reason":null}]}

data: {"id":"c","object":"chat.completion.chunk","created":2,"model":"m","choices":[{"index":0,"delta":{"content":"\ude00 1.0"},"logprobs":null,"finish_reason":"stop"}]}

data: {"id":"c","object":"chat.completion.chunk","created":2,"model":"m","choices":[],"usage":{"prompt_tokens":1.50}}

data: [DONE]

`
	const want = `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"caf\u00e9 \ud83d\ude00 1.0"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1.50}}` + "\n"
	a := joined(rand.New(rand.NewPCG(1, 1)), stream)
	if got := string(a.Whole()); a.Err() != nil || got != want {
		t.Errorf("%v\n got %s\nwant %s", a.Err(), got, want)
	}
}

func FuzzJoin(f *testing.F) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		f.Add([]byte(split(r, randomAnswer(r))))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		var a Answer
		a.Feed(stream)
		a.End()
		_, failed := a.Failed()
		if text := a.Whole(); a.Err() == nil && failed == 0 && !json.Valid(text) {
			t.Errorf("joined to what is no JSON: %s", text)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1700000000,"model":"qwen","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n")
	b.ReportAllocs()
	var a Answer
	for b.Loop() {
		if a.Feed(event); a.size > MaxSize/2 {
			a = Answer{}
		}
	}
}
