package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
)

// A session whose prompts cannot be read goes where its cache is; without a session
// there is nothing that could be told of them.
func TestASessionStaysWithItsCache(t *testing.T) {
	for setting, want := range map[string]string{"": "b", "session_header = \"\"\n": "a", "session_header = \"x-conversation\"\n": "a"} {
		hold := make(chan struct{})
		replica := func(name string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Hold") != "" {
					<-hold
				}
				fmt.Fprint(w, name)
			}
		}
		g := start(t, service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", setting, replicaBlock(serve(t, replica("a")), "h100", 1), replicaBlock(serve(t, replica("b")), "h100", 1)))
		send := func(session, held string) string {
			r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", bytes.NewReader(make([]byte, 200_000)))
			r.Header.Set("Content-Encoding", "gzip")
			r.Header.Set("X-Session-Id", session)
			r.Header.Set("X-Hold", held)
			_, text, _ := do(t, r)
			return text
		}
		first := make(chan string, 1)
		go func() { first <- send("one", "yes") }()
		eventually(t, "the first request is served", func() bool { return replicaState(t, g).Active == 1 })
		if got := send("two", ""); got != "b" {
			t.Fatalf("beside a busy replica a request goes to %q", got)
		}
		close(hold)
		<-first
		if got := send("two", ""); got != want {
			t.Errorf("%q: the session goes on at %q, want %q", setting, got, want)
		}
	}
}
