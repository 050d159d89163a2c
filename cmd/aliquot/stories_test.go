package main

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what commands print now into the stories in testdata")

// Each file of testdata is a story of one behaviour of the command: what is typed, and
// beneath, what it prints. `go test ./cmd/aliquot -run TestStories -update` writes what it
// prints now; read the difference.
//
// Beside the words of testscript there is `answers FILE`: Nomad and Consul answer as the
// file says, in which each answer is a path on a line of its own and JSON beneath. What is
// not in it is not found.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"answers": answers},
	})
}

func answers(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: answers FILE")
	}
	by, path := map[string]string{}, ""
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if strings.HasPrefix(line, "/") {
			path = strings.TrimSpace(line)
		} else if path != "" {
			by[path] += line
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := by[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}))
	ts.Defer(server.Close)
	ts.Setenv("NOMAD_ADDR", server.URL)
	ts.Setenv("CONSUL_HTTP_ADDR", server.URL)
}
