package gateway_test

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"

	"aliquot.example/gateway/config"
)

// ways are what may speak HTTP/1.1 with clients and with replicas. Every test of the
// package runs with each pair, so that a request ends in the same way with all.
var ways = []way{{"front", "wire"}, {"net/http", "net/http"}}

type way struct{ server, client string }

// ownWay names the variable that holds the number of the way of a gateway in a process of
// its own; a test run that is given one uses no other.
const ownWay = "ALIQUOT_TEST_WAY"

// inUse is the number of the way in use.
var inUse, fixed = func() (int, bool) {
	n, err := strconv.Atoi(os.Getenv(ownWay))
	return min(max(n, 0), len(ways)-1), err == nil
}()

func runEachWay(m *testing.M) int {
	flag.Parse()
	for _, name := range []string{"test.fuzz", "test.bench"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return m.Run()
		}
	}
	if fixed {
		return m.Run()
	}
	for inUse = range ways {
		if code := m.Run(); code != 0 {
			fmt.Fprintf(os.Stderr, "with %+v (%s=%d has the tests run with it alone)\n", ways[inUse], ownWay, inUse)
			return code
		}
	}
	return 0
}

// inThisWay has a configuration use the server and the client of this run.
func inThisWay(c *config.Config) *config.Config {
	client := ways[inUse].client
	c.Listen.Server = ways[inUse].server
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
