package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"aliquot.example/internal/api"
)

// hostileStreams are answers of engines that are broken or lie, to requests for 5 tokens.
func hostileStreams() map[string]string {
	word := "data: {\"choices\":[{\"delta\":{\"content\":\"w\"}}]}\n\n"
	return map[string]string{
		"nothing":                    "",
		"carriage returns":           strings.ReplaceAll(modelAnswer, "\n", "\r"),
		"both, mixed":                strings.ReplaceAll(modelAnswer, "\n\n", "\r\n\n"),
		"an event without an end":    "data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x", 4<<20),
		"a line without an end":      strings.Repeat("x", 4<<20),
		"events without data":        strings.Repeat("id: 1\n\n", 50_000),
		"lines of one event":         strings.Repeat("data: [\n", 100_000),
		"objects without an end":     "data: " + strings.Repeat("{\"usage\":", 100_000) + "\n\n",
		"more tokens than asked for": strings.Repeat(word, 50_000),
		"usage that cannot be":       word + "data: {\"usage\":{\"prompt_tokens\":99999999999,\"completion_tokens\":99999999999,\"prompt_tokens_details\":{\"cached_tokens\":99999999999}}}\n\n",
		"more cached than there was": word + "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":60000}}}\n\n",
		"usage that is negative":     word + "data: {\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":-5}}\n\n",
		"usage that is no number":    word + "data: {\"usage\":{\"prompt_tokens\":\"many\",\"completion_tokens\":{}}}\n\n",
		"usage that falls":           strings.Repeat(word+"data: {\"choices\":[{\"delta\":{\"content\":\"w\"}}],\"usage\":{\"completion_tokens\":1}}\n\n", 3),
		"bytes that are no text":     "data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\x00\"}}]}\n\n" + word,
		"a mark in front":            "\xef\xbb\xbf" + modelAnswer,
	}
}

// Whatever an engine streams, the client gets it as it came, the books are empty after it,
// and what a tenant is said to have used is what a request of that kind can use.
func TestHostileStreams(t *testing.T) {
	streams := hostileStreams()
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var asked struct{ Messages []struct{ Content string } }
		if err := json.Unmarshal(body, &asked); err != nil {
			t.Error(err)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		// In pieces that end anywhere, also within a character.
		for text := streams[asked.Messages[0].Content]; len(text) > 0; {
			n := min(len(text), 1+len(text)/3)
			io.WriteString(w, text[:n])
			w.(http.Flusher).Flush()
			text = text[n:]
		}
	})
	g := start(t, service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", objective, replicaBlock(replica, "h100", 1)))
	for name, want := range streams {
		status, text := ask(t, g, strings.Replace(chatBody(name, true), `"stream"`, `"max_tokens":5,"stream"`, 1))
		if status != http.StatusOK || text != want {
			t.Errorf("%s: %d, %d bytes of %d", name, status, len(text), len(want))
		}
		if r := replicaState(t, g); r.InFlight != 0 || r.Active != 0 {
			t.Errorf("%s: the books are not empty after it: %+v", name, r)
		}
		_, said, _ := get(t, g.admin+"/v1/usage")
		var usage api.Usage
		if err := json.Unmarshal([]byte(said), &usage); err != nil {
			t.Fatalf("%s: %v", said, err)
		}
		for _, u := range usage.Usage {
			// 8 times the limit of an answer, and a template of 65,536 tokens for a prompt.
			n := u.Requests
			if u.Output > 40*n || u.Output < 0 || u.Prompt > 70_000*n || u.Prompt < 0 || u.Cached > u.Prompt {
				t.Errorf("%s: the tenant is said to have used %+v", name, u)
			}
		}
	}
}
