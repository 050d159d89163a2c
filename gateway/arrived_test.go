package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"aliquot.example/internal/api"
)

// A tenant that repeats a request which its tokens do not allow is no demand: what is
// refused does not count among the tokens that come.
func TestWhatIsRefusedIsNoDemand(t *testing.T) {
	g := start(t, limited+service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", replicaBlock(engine(t), "h100", 4)))
	arrived := func() (tokens int64, ended int) {
		var out api.Concurrency
		_, text, _ := get(t, g.admin+"/v1/services/chat/concurrency?window=1h")
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		for _, p := range out.Series {
			if p.Tokens != nil {
				tokens, ended = tokens+p.Tokens.Arrived, ended+p.Tokens.Ended
			}
		}
		return tokens, ended
	}
	asks := func() int {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody(strings.Repeat("word ", 200), false)))
		status, _, _ := do(t, r)
		return status
	}
	eventually(t, "the series has begun", func() bool {
		_, text, _ := get(t, g.admin+"/v1/services/chat/concurrency")
		return strings.Contains(text, `"t":`)
	})
	served := 0
	for asks() == http.StatusOK {
		if served++; served > 100 {
			t.Fatal("the tenant's tokens do not end")
		}
	}
	var before int64
	eventually(t, "the served requests are counted", func() bool {
		tokens, ended := arrived()
		before = tokens
		return tokens > 0 && ended > served
	})
	for range 50 {
		if status := asks(); status != http.StatusTooManyRequests {
			t.Fatal(status)
		}
	}
	eventually(t, "the refused requests have ended", func() bool {
		_, ended := arrived()
		return ended >= served+50
	})
	if tokens, _ := arrived(); tokens != before {
		t.Errorf("%d tokens came with %d requests, and %d after 50 more that were refused", before, served, tokens)
	}
}
