package top

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func TestReadsAll(t *testing.T) {
	for rules, want := range map[string]bool{
		`namespace "*" { policy = "read" }`:                                                       true,
		"namespace \"*\" {\n policy = \"write\"\n}\nnode {\n policy = \"read\"\n}":                true,
		`namespace "*" { capabilities = ["list-jobs", "read-job"] }`:                              true,
		`namespace "*" { capabilities = ["list-jobs"] }`:                                          false,
		`namespace "default" { policy = "read" }`:                                                 false,
		"namespace \"*\" {\n policy = \"read\"\n}\nnamespace \"secret\" {\n policy = \"deny\"\n}": false,
		`node { policy = "read" }`:                                                                false,
		`{{`:                                                                                      false,
	} {
		if got := readsAll(rules); got != want {
			t.Errorf("%s: %v", rules, got)
		}
	}
}

// A slice that nobody is seen to hold is not called free where the token may not see
// every namespace.
func TestWhatTheTokenDoesNotSeeIsUnknown(t *testing.T) {
	// What Nomad 1.11 answers while ACLs are off, and what other releases do.
	const off = `{"AccessorID":"acls-disabled","SecretID":"","Name":"ACLs disabled token","Type":"client","Policies":null}`
	const refused = "ACL support disabled"
	for rules, free := range map[string]bool{
		`node { policy = "read" }`: false, `namespace "*" { policy = "read" }`: true, off: true, refused: true,
	} {
		whole := nomadOf(t, 1, func(w http.ResponseWriter, _ *http.Request, node string) { busyStats(w, node) })
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/v1/acl/token/self":
				switch rules {
				case off:
					_, _ = io.WriteString(w, off)
					return
				case refused:
					http.Error(w, refused, http.StatusBadRequest)
					return
				}
				_ = json.NewEncoder(w).Encode(api.ACLToken{Type: "client", Policies: []string{"p"}})
			case "/v1/acl/policy/p":
				_ = json.NewEncoder(w).Encode(api.ACLPolicy{Name: "p", Rules: rules})
			default:
				http.Redirect(w, r, whole.Nomad.Address()+r.URL.String(), http.StatusTemporaryRedirect)
			}
		}))
		t.Cleanup(front.Close)
		client, err := api.NewClient(&api.Config{Address: front.URL})
		if err != nil {
			t.Fatal(err)
		}
		s, err := Cluster{Nomad: client}.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := Render(&text, s); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(text.String(), "[A.]  1/2"); got != free {
			t.Errorf("with %s:\n%s", rules, &text)
		}
		if got := strings.Contains(text.String(), "[A?]  1+/2") && strings.Contains(text.String(), "may be held"); got == free {
			t.Errorf("with %s:\n%s", rules, &text)
		}
	}
}
