package prompt

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var key = Key{1, 2}

func read(api API, body string) Size { return Read(api, []byte(body), 0, key) }

// body encodes a request; members is JSON without braces.
func body(members ...string) string { return "{" + strings.Join(members, ",") + "}" }

func member(name string, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%q:%s", name, text)
}

type message struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

func TestSizes(t *testing.T) {
	image := "data:image/png;base64," + strings.Repeat("iVBOR", 20000)
	for name, c := range map[string]struct {
		api  API
		body string
		want Size
	}{
		"chat": {Chat, `{"messages":[{"role":"user","content":"hi"}],"model":"m","max_tokens":7,"stream":true,"stream_options":{"include_usage":true}}`,
			Size{API: Chat, Text: 8, Limit: 7, Answers: 1, Streamed: true}},
		"chat in parts":    {Chat, `{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}`, Size{API: Chat, Text: 13, Answers: 1}},
		"chat with image":  {Chat, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + image + `"}}]}]}`, Size{API: Chat, Text: 29, Media: 1, Answers: 1}},
		"image elsewhere":  {Chat, `{"messages":[{"role":"user","content":[{"image_url":{"url":"https://example.org/a.png"}}]}]}`, Size{API: Chat, Text: 19, Media: 1, Answers: 1}},
		"escapes":          {Chat, `{"messages":["\u4f60\n\"\ud83d\ude00\ud83d\u12"]}`, Size{API: Chat, Text: 3 + 1 + 1 + 4 + 3 + 2 + 1, Answers: 1}},
		"several answers":  {Completions, `{"prompt":"four","n":3,"max_tokens":5,"ignore_eos":true}`, Size{API: Completions, Text: 5, Answers: 3, Limit: 5, Exact: true}},
		"prompts":          {Completions, `{"prompt":["four","five"]}`, Size{API: Completions, Text: 10, Answers: 1}},
		"token numbers":    {Completions, `{"prompt":[1,2,3]}`, Size{API: Completions, IDs: 3, Answers: 1}},
		"more of them":     {Embeddings, `{"input":[[1,2,3],[4]]}`, Size{API: Embeddings, IDs: 4, Answers: 1}},
		"responses":        {Responses, `{"input":"hi","instructions":"be","max_output_tokens":9}`, Size{API: Responses, Text: 6, Answers: 1, Limit: 9}},
		"response items":   {Responses, `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://example.org/a.png"}]}]}`, Size{API: Responses, Text: 5 + 12 + 10, Media: 1, Answers: 1}},
		"messages":         {Messages, `{"system":[{"type":"text","text":"be","cache_control":{"type":"ephemeral"}}],"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, Size{API: Messages, Text: 16, Answers: 1, Limit: 9}},
		"message image":    {Messages, `{"messages":[{"content":[{"type":"image","source":{"type":"base64","data":"` + image[22:] + `"}}]}]}`, Size{API: Messages, Text: 6 + 7 + 7 + 5, Media: 1, Answers: 1}},
		"opaque":           {Opaque, `{"messages":[]}`, Size{API: Opaque, Text: 15, Answers: 1}},
		"no object":        {Chat, `[1]`, Size{API: Opaque, Text: 3, Answers: 1}},
		"nothing":          {Chat, ``, Size{API: Opaque, Answers: 1}},
		"a wild limit":     {Chat, `{"max_tokens":1e99,"n":9999999999,"best_of":-3}`, Size{API: Chat, Answers: 1}},
		"many answers":     {Chat, `{"n":999999999}`, Size{API: Chat, Answers: maxAnswers}},
		"exact needs both": {Chat, `{"ignore_eos":true}`, Size{API: Chat, Answers: 1}},
	} {
		got := read(c.api, c.body)
		blocks := got.Blocks
		got.Blocks = nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if got.Media == 0 && len(blocks) > 0 {
			t.Errorf("%s: %d blocks of so short a prompt", name, len(blocks))
		}
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]API{
		"/v1/chat/completions": Chat, "/team/v1/completions": Completions, "/v1/responses": Responses, "/v1/embeddings": Embeddings,
		"/v1/messages": Messages, "/v1/messages/": Opaque, "/messages": Opaque, "/v2/models/x/infer": Opaque, "": Opaque,
	} {
		if got := Of(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// What is said before the conversation comes first in the chain wherever it stands
// in the body, and white space is no difference.
func TestTheChainFollowsThePromptNotTheBody(t *testing.T) {
	long := strings.Repeat("All work and no play. ", 500)
	tools := member("tools", []any{map[string]any{"name": "f", "parameters": map[string]any{"a": long}}})
	messages := member("messages", []message{{"user", long}})
	a := read(Chat, body(member("model", "m"), tools, messages))
	b := read(Chat, strings.ReplaceAll(body(messages, tools, member("model", "m")), `":`, "\" :\n\t"))
	if len(a.Blocks) < 8 || !slices.Equal(a.Blocks, b.Blocks) {
		t.Errorf("%d and %d blocks, or other ones", len(a.Blocks), len(b.Blocks))
	}
	if c := Read(Chat, []byte(body(messages, tools, member("model", "m"))), 0, Key{3, 4}); c.Blocks[0] == a.Blocks[0] {
		t.Error("the key makes no difference")
	}
}

// Whatever decides which cache a server may use parts all blocks.
func TestWhatPartsCaches(t *testing.T) {
	messages := member("messages", []message{{"user", strings.Repeat("All work and no play. ", 500)}})
	seen := map[uint64]string{}
	for _, apart := range []string{`"a":1`, `"model":"m"`, `"model":"n"`, `"cache_salt":"m"`, `"lora_path":"m"`, `"reasoning_effort":"low"`, `"tools":["x"]`, `"chat_template":"x"`} {
		s := read(Chat, body(messages, apart))
		if before, ok := seen[s.Blocks[0]]; ok {
			t.Errorf("%s and %s share blocks", before, apart)
		}
		seen[s.Blocks[0]] = apart
	}
	if s := read(Embeddings, body(member("input", strings.Repeat("All work. ", 1000)))); len(s.Blocks) > 0 {
		t.Error("a text to embed has no cache of beginnings")
	}
}

// A conversation that goes on keeps the blocks of its beginning, also where its
// client moves the marks of Anthropic's cache.
func TestATurnKeepsTheBlocksBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 4000, -1)
		turns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) message {
			return message{rapid.SampledFrom([]string{"user", "assistant"}).Draw(t, "role"), text.Draw(t, "content")}
		}), 1, 6).Draw(t, "turns")
		more := append(slices.Clone(turns), message{"user", []any{map[string]any{"type": "text", "text": text.Draw(t, "next"), "cache_control": map[string]string{"type": "ephemeral"}}}})
		api := rapid.SampledFrom([]API{Chat, Messages}).Draw(t, "api")
		a, b := read(api, body(member("messages", turns))), read(api, body(member("messages", more)))
		if len(b.Blocks) < len(a.Blocks) || !slices.Equal(a.Blocks, b.Blocks[:len(a.Blocks)]) {
			t.Fatalf("%d blocks are not the beginning of %d", len(a.Blocks), len(b.Blocks))
		}
		if want := int(a.Text / BlockSize); len(a.Blocks) != want {
			t.Fatalf("%d blocks of %d bytes", len(a.Blocks), a.Text)
		}
	})
}

// Prompts that differ share no block from the difference on.
func TestADifferencePartsAllBlocksAfterIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(strings.Repeat("abcdefgh", rapid.IntRange(600, 2000).Draw(t, "length")))
		other := slices.Clone(text)
		at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		other[at] ^= 1
		a := read(Completions, body(member("prompt", string(text)))).Blocks
		b := read(Completions, body(member("prompt", string(other)))).Blocks
		for i := range a {
			if same := i < at/BlockSize; (a[i] == b[i]) != same {
				t.Fatalf("block %d after a change of byte %d: same %t", i, at, a[i] == b[i])
			}
		}
	})
}

// The text is as long as the strings are, however they are escaped.
func TestEscapingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 3000, -1).Filter(utf8.ValidString).Draw(t, "text")
		var escaped strings.Builder
		for _, r := range text {
			if r > 0xffff {
				r -= 0x10000
				fmt.Fprintf(&escaped, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
			} else {
				fmt.Fprintf(&escaped, `\u%04X`, r)
			}
		}
		a, b := read(Completions, body(member("prompt", text))), read(Completions, `{"prompt":"`+escaped.String()+`"}`)
		if a.Text != int64(len(text)+1) || b.Text != a.Text || !slices.Equal(a.Blocks, b.Blocks) {
			t.Fatalf("%q: %d and %d bytes of %d", text, a.Text, b.Text, len(text)+1)
		}
	})
}

func TestABodyThatEndsEarlyIsScaled(t *testing.T) {
	full := body(member("prompt", strings.Repeat("x", 10000)))
	half := Read(Completions, []byte(full[:5000]), int64(len(full)), key)
	if math.Abs(float64(half.Text)-10000) > 50 || len(half.Blocks) != 2 {
		t.Errorf("%d bytes and %d blocks from half of 10000", half.Text, len(half.Blocks))
	}
}

func TestModel(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"a"}`: `"a"`, ` { "x":{"model":"b"} , "model" : "a\"b" }`: `"a\"b"`, `{"model":"a","model":"c"}`: `"c"`,
		`{"model":7}`: "", `{"model":"a","model":7}`: "", `["model","a"]`: "", `{"x":"model"}`: "", ``: "", `{"model`: "",
	} {
		from, to, ok := Model([]byte(body))
		if got := body[from:to]; ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %t", body, got, ok)
		}
	}
}

// The members of an object stand where they are said to stand; what is not all of an
// object has none that count.
func TestMembers(t *testing.T) {
	for body, want := range map[string]string{
		`{}`: "", " {\n} ": "", `{"model":"a"}`: `model="a" `, ` { "x":{"model":"b"} , "model" : "a\"b" } `: `x={"model":"b"} model="a\"b" `,
		`{"model":"a","model":[7, {}]}`: `model="a" model=[7, {}] `, `{"m\u006f":true,"":null}`: `m\u006f=true =null `, mark + `{"a":1}`: `a=1 `,
		`["model","a"]`: "no", ``: "no", `{`: "no", `{"model`: "no", `{"model"`: "no", `{"model":`: "no", `{"model":"a"`: "no",
		`{"a":1} x`: "no", `{"a":1}{`: "no", `{a:1}`: "no", `{"a" 1}`: "no",
	} {
		got := ""
		open, ok := Members([]byte(body), func(key []byte, from, to int) { got += string(key) + "=" + body[from:to] + " " })
		if ok != (want != "no") || ok && (got != want || body[open-1] != '{') {
			t.Errorf("%s: %q, %t; want %q", body, got, ok, want)
		}
	}
}

// Two tenants' prompts have no block in common, one tenant's have all.
func TestKeysKeepTenantsApart(t *testing.T) {
	text := []byte(body(member("prompt", strings.Repeat("x", 10000))))
	a, b := Read(Completions, text, 0, key.For("a")), Read(Completions, text, 0, key.For("b"))
	for i := range a.Blocks {
		if slices.Contains(b.Blocks, a.Blocks[i]) {
			t.Errorf("block %d is the same for both", i)
		}
	}
	if again := Read(Completions, text, 0, key.For("a")); len(a.Blocks) != 4 || !slices.Equal(a.Blocks, again.Blocks) {
		t.Errorf("%v, then %v", a.Blocks, again.Blocks)
	}
}

// What was not read of a prompt continues what its session sent before.
func TestASessionContinues(t *testing.T) {
	of := func(session string, bytes int64) []uint64 {
		s := Read(Opaque, nil, bytes, key)
		s.Follow(session, key)
		return s.Blocks
	}
	if short, long := of("s", 3*BlockSize), of("s", 5*BlockSize+9); len(short) != 3 || len(long) != 5 || !slices.Equal(short, long[:3]) {
		t.Errorf("%v, then %v", short, long)
	}
	if a, b := of("s", BlockSize), of("t", BlockSize); a[0] == b[0] {
		t.Error("two sessions have a block in common")
	}
	if n := len(of("s", 1<<40)); n > maxBlocks {
		t.Errorf("%d blocks", n)
	}
	full := body(member("prompt", strings.Repeat("x", 10*BlockSize)))
	half := Read(Completions, []byte(full[:5*BlockSize]), int64(len(full)), key)
	seen := slices.Clone(half.Blocks)
	if half.Follow("s", key); len(half.Blocks) < 9 || len(half.Blocks) > 10 || !slices.Equal(half.Blocks[:len(seen)], seen) {
		t.Errorf("%d blocks of which %d were read", len(half.Blocks), len(seen))
	}
}

// Any text is read to its end in bounded memory, and what is counted is no more
// than was there.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":"hi"}],"model":"m"}`, `{"prompt":[[1,2],"a",{"b":null}]}`, `{"input":"\u00e4\ud83d\ude00\ud83d`,
		`{"a" "b":[}]{]`, `{"a":"\`, `{"a":"\"`, `{{{{`, `{"stream_options":{"include_usage" :true}`, "{\"tools\":\x00}", `{"messages":"` + strings.Repeat(`\n`, 300) + `"}`,
	} {
		for api := range Messages + 1 {
			f.Add(int(api), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, api int, text []byte) {
		s := Read(API(api), text, 0, key)
		if again := Read(API(api), text, 0, key); fmt.Sprint(s) != fmt.Sprint(again) {
			t.Fatal("reads differ")
		}
		// A separator may follow each piece, and pieces take a byte at least.
		if s.Text > int64(2*len(text)) || s.IDs > int64(len(text)) || s.Media > int64(len(text)) {
			t.Fatalf("%+v of %d bytes", s, len(text))
		}
		if most := (2*len(text) + int(s.Media)*mediaTokens*bytesPerToken) / BlockSize; len(s.Blocks) > min(most, maxBlocks) || s.Answers < 1 || s.Limit < 0 {
			t.Fatalf("%d blocks of %d bytes", len(s.Blocks), len(text))
		}
	})
}

func TestLearnedTokens(t *testing.T) {
	var l Learned
	text := Size{API: Chat, Text: 4000, Answers: 1}
	if got := l.Prompt(&text); got != 1000 {
		t.Errorf("%g tokens at first, want a quarter of the bytes", got)
	}
	for range 200 {
		l.Observe(&text, 1500, 40)
		l.Observe(&Size{API: Chat, Text: 4000, Answers: 1, Limit: 3000}, 1500, 900)
	}
	for name, c := range map[string]struct {
		size   Size
		prompt float64
		output float64
	}{
		"as before":       {text, 1500, 40},
		"with a limit":    {Size{API: Chat, Text: 400, Limit: 2500, Answers: 1}, 150, 900},
		"a lower limit":   {Size{API: Chat, Text: 400, Limit: 10, Answers: 1}, 150, 10},
		"two answers":     {Size{API: Chat, Text: 400, Answers: 2}, 150, 80},
		"an exact length": {Size{API: Chat, Text: 400, Limit: 70, Exact: true, Answers: 1}, 150, 70},
		"token numbers":   {Size{API: Completions, IDs: 77, Limit: 1, Answers: 1}, 77, 1},
		"embedding":       {Size{API: Embeddings, Text: 400, Answers: 1}, 150, 0},
		"empty":           {Size{API: Chat, Answers: 1}, 1, 40},
	} {
		if p, o := l.Prompt(&c.size), l.Output(&c.size); math.Abs(p-c.prompt) > 0.02*c.prompt || math.Abs(o-c.output) > 0.04*c.output {
			t.Errorf("%s: %g and %g tokens, want about %g and %g", name, p, o, c.prompt, c.output)
		}
	}
	picture := Size{API: Chat, Text: 400, Media: 2, Answers: 1}
	if got := l.Prompt(&picture); math.Abs(got-150-2*mediaTokens) > 5 {
		t.Errorf("%g tokens with two images", got)
	}
	for range 200 {
		l.Observe(&picture, 2150, -1)
	}
	if got := l.Prompt(&picture); math.Abs(got-2150) > 50 {
		t.Errorf("%g tokens with two images of 1000 each", got)
	}
}

// No sample, however wrong, makes a request weightless or endless for long.
func TestOddSamplesAreOutlived(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Learned
		s := Size{API: Chat, Text: 4000, Answers: 1}
		for range rapid.IntRange(0, 20).Draw(t, "odd") {
			l.Observe(&s, rapid.Int64().Draw(t, "prompt"), rapid.Int64().Draw(t, "output"))
			if p, o := l.Prompt(&s), l.Output(&s); !(p >= 100 && p <= 8000) || !(o >= 0 && o <= maxOutput) {
				t.Fatalf("%g and %g tokens", p, o)
			}
		}
		for range 5000 {
			l.Observe(&s, 1000, 100)
		}
		if p, o := l.Prompt(&s), l.Output(&s); math.Abs(p-1000) > 20 || math.Abs(o-100) > 120 {
			t.Fatalf("%g and %g tokens after 5000 good samples", p, o)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	text := strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 16384/46)
	prompt := []byte(body(member("messages", []message{{"system", "be brief"}, {"user", text}}), member("model", "m")))
	b.SetBytes(int64(len(prompt)))
	b.ReportAllocs()
	for b.Loop() {
		Read(Chat, prompt, 0, key)
	}
}

// A byte order mark changes nothing.
func TestAMarkIsSkipped(t *testing.T) {
	text := `{"model":"m","max_tokens":7,"messages":[{"role":"user","content":"hello"}]}`
	if a, b := read(Chat, text), read(Chat, mark+text); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%+v, and behind a mark %+v", a, b)
	}
	from, to, ok := Model([]byte(mark + text))
	if !ok || (mark + text)[from:to] != `"m"` {
		t.Errorf("the model is at %d to %d, %t", from, to, ok)
	}
}

// Nobody is taken at his word for what no model generates.
func TestAnExactAnswerIsBounded(t *testing.T) {
	var l Learned
	s := read(Chat, `{"max_tokens":999999999,"n":128,"ignore_eos":true}`)
	if n := l.Output(&s); n > maxOutput*maxAnswers {
		t.Errorf("%g tokens are expected", n)
	}
}

// Of bytes that were not read nothing is learned of text.
func TestNothingIsLearnedFromWhatWasNotRead(t *testing.T) {
	var l Learned
	s := Size{API: Opaque, Answers: 1, Text: 1000}
	before := l.Prompt(&s)
	for range 100 {
		l.Observe(&s, 100_000, 10)
	}
	if after := l.Prompt(&s); after != before {
		t.Errorf("a prompt counts %g tokens, before %g", after, before)
	}
}
