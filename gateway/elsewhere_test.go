package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// named is a replica that answers with its name and the body that it got.
func named(t *testing.T, name string) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, name+" "+string(body))
	})
}

const only = "route {\n hosts = [\"none\"]\n}\n" // reached from other services alone

func TestARequestThatIsTurnedAwayGoesToTheFallback(t *testing.T) {
	nobody := "replicas_file = \"none\"\n"
	short := "queue {\n max_wait = \"10ms\"\n}\n"
	g := start(t, service("a", "fallback = \"b\"\n", short, nobody)+
		service("b", "fallback = \"c\"\n", only, short, nobody)+
		service("c", only, replicaBlock(named(t, "c"), "h100", 1)))
	for range 3 {
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("body"))
		if status, text, _ := do(t, r); status != 200 || text != "c body" {
			t.Fatalf("%d %q", status, text)
		}
	}
	_, metrics, _ := get(t, g.admin+"/metrics")
	for _, want := range []string{`aliquot_gateway_fallbacks_total{service="a",to="b"} 3`, `aliquot_gateway_fallbacks_total{service="b",to="c"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	// The wait at the first two counts.
	text := g.metric(t, `aliquot_gateway_wait_seconds_sum{service="c"}`)
	if sum, err := strconv.ParseFloat(text, 64); err != nil || sum < 3*0.02 {
		t.Errorf("three requests waited %q seconds, want at least 0.06", text)
	}
}

// What is the tenant's own limit stays one, and where the fallback has no replica
// either the client is told so.
func TestAFallbackIsNoWayAroundLimits(t *testing.T) {
	hold := make(chan struct{})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-hold })
	defer close(hold)
	g := start(t, "tenants {\n header = \"X-Tenant\"\n tenant \"t\" {\n max_active = 1\n max_queue = 1\n }\n}\n"+
		service("a", "fallback = \"b\"\n", replicaBlock(slow, "h100", 4))+
		service("b", only, "queue {\n max_wait = \"10ms\"\n}\n", replicaBlock(named(t, "b"), "h100", 1)))
	send := func() (int, string) {
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		r.Header.Set("X-Tenant", "t")
		status, text, _ := do(t, r)
		return status, text
	}
	for range 2 {
		go http.DefaultClient.Do(func() *http.Request {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
			r.Header.Set("X-Tenant", "t")
			return r
		}())
	}
	eventually(t, "one is served and one waits", func() bool { s := g.state(t, "a"); return s.Queued == 1 && s.busy() == 1 })
	if status, text := send(); status != http.StatusTooManyRequests {
		t.Errorf("%d %q", status, text)
	}
}

// A model's alias is put right on the way to the replica, at every attempt, and all
// else of the body stays.
func TestAliases(t *testing.T) {
	var tries atomic.Int64
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if tries.Add(1)%2 == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d %s", r.ContentLength, body)
	})
	g := start(t, service("a", "model = \"a-long-name\"\nroute {\n models = [\"x\", \"a-long-name\"]\n}\n", replicaBlock(replica, "h100", 8)))
	pad := strings.Repeat("model ", 20_000)
	for body, want := range map[string]string{
		`{"messages":"` + pad + `","model": "x" , "n":1}`: `{"messages":"` + pad + `","model": "a-long-name" , "n":1}`,
		`{"model":"a-long-name"}`:                         `{"model":"a-long-name"}`,
	} {
		for _, length := range []int64{int64(len(body)), -1} {
			r, _ := http.NewRequest(http.MethodPost, g.url, io.NopCloser(strings.NewReader(body)))
			r.ContentLength = length
			status, text, _ := do(t, r)
			got, rest, _ := strings.Cut(text, " ")
			if status != 200 || rest != want || length >= 0 && got != fmt.Sprint(len(want)) {
				t.Errorf("%d: length %s of %d, %.60q", status, got, len(want), rest)
			}
		}
	}
}

func TestASplitTakesItsPart(t *testing.T) {
	g := start(t, service("a", "split {\n to = \"b\"\n percent = 25\n}\n", replicaBlock(named(t, "a"), "h100", 8))+
		service("b", only, replicaBlock(named(t, "b"), "h100", 8)))
	count := map[string]int{}
	for range 400 {
		_, text, _ := get(t, g.url)
		count[strings.TrimSpace(text)]++
	}
	// 25% of 400 within six standard deviations.
	if n := count["b"]; n < 48 || n > 152 || count["a"]+n != 400 {
		t.Errorf("%v", count)
	}
}
