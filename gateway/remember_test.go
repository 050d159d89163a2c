package gateway_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"aliquot/internal/api"
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

// Where a request's time went is told in parts that add up to all of it.
func TestRequestsSayWhereTheirTimeWent(t *testing.T) {
	const each = 30 * time.Millisecond
	hold := make(chan struct{})
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
			return
		}
		time.Sleep(each) // the work, which is measured
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		time.Sleep(each)
		fmt.Fprint(w, "done")
	})
	g := start(t, service("images", replicaBlock(replica, "h100", 1)))
	first := make(chan int, 1)
	go func() { status, _, _ := get(t, g.url+"/hold"); first <- status }()
	eventually(t, "the slot is held", func() bool { return g.state(t, "images").Active["h100"] == 1 })
	second := make(chan int, 1)
	go func() { status, _, _ := get(t, g.url+"/work"); second <- status }()
	eventually(t, "the second waits", func() bool { return g.state(t, "images").Queued == 1 })
	close(hold)
	if a, b := <-first, <-second; a != 200 || b != 200 {
		t.Fatal(a, b)
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
		if ms := float64(each.Milliseconds()); i == 0 && (q.Upstream < ms || q.Answer < ms || q.Waited == 0) {
			t.Errorf("%+v: its replica took %s twice", q, each)
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
