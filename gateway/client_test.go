package gateway_test

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"aliquot/gateway/config"
)

// clients are what may speak HTTP/1.1 to replicas. Every test of the package runs with
// each, so that a request ends in the same way with all.
var clients = []string{"net/http", "wire"}

// ownClient names the variable that holds the client of a gateway in a process of its own.
const ownClient = "ALIQUOT_TEST_CLIENT"

// client is the one in use.
var client = cmp.Or(os.Getenv(ownClient), clients[0])

func runWithEachClient(m *testing.M) int {
	flag.Parse()
	for _, name := range []string{"test.fuzz", "test.bench"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return m.Run()
		}
	}
	for _, client = range clients {
		if code := m.Run(); code != 0 {
			fmt.Fprintln(os.Stderr, "with the client", client)
			return code
		}
	}
	return 0
}

// withClient has the services of a configuration use the client of this run.
func withClient(c *config.Config) *config.Config {
	for i := range c.Services {
		c.Services[i].Upstream.Client = client
	}
	return c
}

// What a client asks for that no replica could understand says nothing of the replica.
func TestATargetThatCannotBeSentIsTheClientsFault(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") })
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: h2}
	defer transport.CloseIdleConnections()
	for range 10 {
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		r.URL.RawQuery = "a b"
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != http.StatusBadRequest {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	if status, body, _ := get(t, g.url); status != 200 || body != "done" {
		t.Errorf("another request: %d %q", status, body)
	}
}
