package ui

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
)

// Only Nomad's own word that its ACLs are off lets everybody in.
func TestOnlyNomadSaysThatACLsAreOff(t *testing.T) {
	answer := func(status int, text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, text)
		})
	}
	for name, c := range map[string]struct {
		handler http.Handler
		tls     bool
		open    bool
	}{
		"ACLs off":        {answer(400, "ACL support disabled"), false, true},
		"ACLs on":         {answer(403, "Permission denied"), false, false},
		"a proxy's 400":   {answer(400, "Bad Request"), false, false},
		"a TLS listener":  {answer(200, "[]"), true, false},
		"a broken server": {answer(500, "ACL support disabled"), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(c.handler)
			if c.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			client, err := nomad.NewClient(&nomad.Config{Address: "http://" + server.Listener.Addr().String()})
			if err != nil {
				t.Fatal(err)
			}
			if open, err := (nomadGuard{client}).open(t.Context()); open != c.open {
				t.Errorf("open %t (%v), want %t", open, err, c.open)
			}
		})
	}
}
