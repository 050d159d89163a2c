package gateway

import (
	"testing"

	"aliquot.example/internal/meter"
	"aliquot.example/internal/prompt"
)

// What an engine cannot have used it is not believed to have used, and what is not
// known is not zero.
func TestWhatAnEngineTellsIsBounded(t *testing.T) {
	const lie = "1000000000000000000"
	chat := prompt.Size{API: prompt.Chat, Answers: 1, Text: 40, Limit: 16}
	free := prompt.Size{API: prompt.Chat, Answers: 1, Text: 40}
	batch := prompt.Size{API: prompt.Completions, Answers: 1, Text: 400, Limit: 16}
	event := "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":" + lie + "}}\n\n"
	for name, c := range map[string]struct {
		size                   prompt.Size
		kind, coding, text     string
		prompt, cached, output int64
	}{
		"the truth":         {chat, "application/json", "", `{"usage":{"prompt_tokens":300,"completion_tokens":16,"prompt_tokens_details":{"cached_tokens":200}}}`, 300, 200, 16},
		"a lie":             {chat, "application/json", "", `{"choices":[{"message":{"content":"12345678"}}],"usage":{"prompt_tokens":` + lie + `,"completion_tokens":` + lie + `,"prompt_tokens_details":{"cached_tokens":` + lie + `}}}`, -1, -1, 2},
		"without a limit":   {free, "application/json", "", `{"usage":{"prompt_tokens":300,"completion_tokens":100000}}`, 300, -1, 100000},
		"a lie without one": {free, "application/json", "", `{"usage":{"prompt_tokens":300,"completion_tokens":` + lie + `}}`, 300, -1, -1},
		"many prompts":      {batch, "application/json", "", `{"usage":{"prompt_tokens":300,"completion_tokens":1600}}`, 300, -1, 1600},
		"a lying stream":    {chat, "text/event-stream", "", event, 3, -1, -1},
		"compressed":        {chat, "application/json", "gzip", "\x1f\x8b", -1, -1, -1},
		"another type":      {chat, "application/octet-stream", "", "word", -1, -1, -1},
		"embeddings":        {prompt.Size{API: prompt.Embeddings, Answers: 1, Text: 40}, "application/json", "", `{"usage":{"prompt_tokens":7}}`, 7, -1, 0},
	} {
		r := &reading{service: &language{}, size: c.size, meter: meter.New(c.kind, c.coding)}
		r.meter.Feed([]byte(c.text))
		r.meter.End()
		u := r.used()
		output, _ := r.output()
		if u.Prompt != c.prompt || u.Cached != c.cached || output != c.output {
			t.Errorf("%s: prompt %d, cached %d, output %d; want %d, %d, %d", name, u.Prompt, u.Cached, output, c.prompt, c.cached, c.output)
		}
	}
}
