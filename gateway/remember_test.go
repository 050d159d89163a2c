package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

// requests returns what the gateway remembers, when there are so many of each kind.
func (g *running) requests(t *testing.T, query string, slow, failed int) (out api.Requests) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d slow and %d failed requests", slow, failed), func() bool {
		out = api.Requests{}
		status, text, _ := get(t, g.admin+"/v1/requests"+query)
		return status == http.StatusOK && json.Unmarshal([]byte(text), &out) == nil && len(out.Slow) == slow && len(out.Failed) == failed
	})
	return out
}

// passed waits until so much time has passed since a moment, and returns how much it was.
func passed(t *testing.T, since time.Time, least time.Duration) time.Duration {
	t.Helper()
	eventually(t, "time passes", func() bool { return time.Since(since) >= least })
	return time.Since(since)
}

// millisOf is what the gateway says of a time, of which it counts whole microseconds.
func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Where a request's time went is told in parts that add up to all of it.
func TestRequestsSayWhereTheirTimeWent(t *testing.T) {
	const least = 5 * time.Millisecond // of each part
	hold, header, rest := make(chan struct{}), make(chan struct{}), make(chan struct{})
	entered := make(chan time.Time, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
			return
		}
		entered <- time.Now()
		<-header
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-rest
		fmt.Fprint(w, "done")
	})
	g := start(t, service("images", replicaBlock(replica, "h100", 1)))
	first := make(chan int, 1)
	go func() { status, _, _ := get(t, g.url+"/hold"); first <- status }()
	eventually(t, "the slot is held", func() bool { return g.state(t, "images").Active["h100"] == 1 })
	second := make(chan *http.Response, 1)
	go func() {
		res, err := http.Get(g.url + "/work")
		if err != nil {
			t.Error(err)
		}
		second <- res
	}()
	eventually(t, "the second waits", func() bool { return g.state(t, "images").Queued == 1 })
	waited := passed(t, time.Now(), least)
	close(hold)
	upstream := passed(t, <-entered, least)
	close(header)
	res := <-second // its header has come
	if res == nil {
		t.FailNow()
	}
	defer res.Body.Close()
	answer := passed(t, time.Now(), least)
	close(rest)
	if text, err := io.ReadAll(res.Body); string(text) != "done" || <-first != http.StatusOK {
		t.Fatal(text, err)
	}
	slow := g.requests(t, "", 2, 0).Slow // the newest first
	for i, q := range slow {
		sum := q.Received + q.Waited + q.Retried + q.Upstream + q.Answer
		if math.Abs(sum-q.Total) > 0.01 {
			t.Errorf("the parts of %+v make %f", q, sum)
		}
		if q.Service != "images" || q.Class != "h100" || q.Replica == "" || q.Attempts != 1 || q.Outcome != "served" || q.Status != 200 || q.Tenant != "other" {
			t.Errorf("%+v", q)
		}
		if i == 0 && (q.Waited < millisOf(waited) || q.Upstream < millisOf(upstream) || q.Answer < millisOf(answer)) {
			t.Errorf("%+v: want at least %s, %s and %s of waiting, upstream and answer", q, waited, upstream, answer)
		}
	}
}

// A failure is told with the attempts that were made in vain, and without the names of
// tenants that clients make up.
func TestFailuresAreRemembered(t *testing.T) {
	bad := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "out of memory", http.StatusInternalServerError)
	})
	g := start(t, service("images", replicaBlock(bad, "h100", 1)))
	r, _ := http.NewRequest(http.MethodGet, g.url+"/", nil)
	r.Header.Set("X-Tenant", "made-up")
	if status, _, _ := do(t, r); status != http.StatusInternalServerError {
		t.Fatal(status)
	}
	q := g.requests(t, "?service=images", 1, 1).Failed[0]
	if q.Status != http.StatusInternalServerError || q.Tenant != "other" || q.Replica == "" {
		t.Errorf("%+v", q)
	}
	if status, _, _ := get(t, g.admin+"/v1/requests?service=none"); status != http.StatusNotFound {
		t.Errorf("a service that there is not: %d", status)
	}
}

// What is remembered of a service outlives a reload that changes the service, and is
// forgotten with it.
func TestAReloadRemembersTheServicesThatStay(t *testing.T) {
	fails := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
	route := func(path string) string { return fmt.Sprintf("route {\n path_prefix = %q\n}\n", path) }
	stays := func(slots int) string { return service("stays", route("/stays"), replicaBlock(fails, "h100", slots)) }
	goes := service("goes", route("/goes"), replicaBlock(fails, "h100", 1))
	g := start(t, stays(1)+goes)
	get(t, g.url+"/stays")
	get(t, g.url+"/goes")
	g.requests(t, "", 2, 2)
	for _, text := range []string{stays(2), stays(2) + goes} {
		if err := g.reload(t, text); err != nil {
			t.Fatal(err)
		}
	}
	if q := g.requests(t, "", 1, 1).Failed[0]; q.Service != "stays" {
		t.Errorf("%+v", q)
	}
	g.requests(t, "?service=goes", 0, 0)
}
