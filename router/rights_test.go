package router_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/router"
)

// awaitHealth waits until /health answers with a status and words.
func awaitHealth(t *testing.T, r *router.Router, code int, part string) {
	t.Helper()
	await(t, func() string {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
		if w.Code != code || !strings.Contains(w.Body.String(), part) {
			return "/health answers " + w.Body.String()
		}
		return ""
	})
}

// A token file that is wrong at first, empty for a moment or replaced is read again,
// and meanwhile the last state stays and the reason is told.
func TestATokenFileThatIsMended(t *testing.T) {
	t.Parallel()
	f := startWithACL(t)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	good, err := os.ReadFile(f.token(shippedPolicy(t)))
	if err != nil {
		t.Fatal(err)
	}
	c := f.conf("")
	c.Consul.TokenFile = filepath.Join(t.TempDir(), "token")
	c.Leader.TTL = 2 * time.Second
	write := func(text string) {
		if err := os.WriteFile(c.Consul.TokenFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("11111111-2222-3333-4444-555555555555")
	r, _ := f.route(c)
	awaitHealth(t, r, http.StatusServiceUnavailable, "jobs/router-policy.hcl")
	write(string(good))
	both := want(t, map[string]int{"h100": 1, "l4": 1})
	f.awaitChain("chat", both)
	awaitHealth(t, r, http.StatusOK, "ok")
	write("")
	awaitHealth(t, r, http.StatusServiceUnavailable, "the token file is empty")
	// A change is not read with another identity, which would see nothing.
	f.deregister("chat", "l4", 0, 1)
	awaitState(t, r, "chat", router.StateWaiting, "the token file is empty")
	if s := status(t, r, "chat"); len(s.Groups) == 0 {
		t.Errorf("groups are %+v", s.Groups)
	}
	f.awaitChain("chat", both)
	write(string(good))
	f.awaitChain("chat", map[string]int{"h100": 10000, "l4": 0})
	awaitHealth(t, r, http.StatusOK, "ok")
}

// A token that may not see a service's instances is told apart from a service that has
// none.
func TestFilteredAnswersAreNamed(t *testing.T) {
	t.Parallel()
	f := startWithACL(t)
	f.register("chat", "h100", 1)
	c := f.conf(`service "chat" { route = true }`)
	c.Consul.TokenFile = f.token(strings.ReplaceAll(shippedPolicy(t), `node_prefix "" {`, `node_prefix "other" {`))
	r, _ := f.route(c)
	awaitState(t, r, "chat", router.StateWaiting, "may not read all entries")
	if missing := f.kinds(); missing != "" {
		t.Error(missing)
	}
}
