package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"aliquot.example/internal/api"
)

// holding is a replica whose requests wait until they are let go.
type holding struct {
	*httptest.Server
	active, most, total atomic.Int64
	cancelled           atomic.Int64
	release             chan struct{}
}

func newHolding(t *testing.T) *holding {
	h := &holding{release: make(chan struct{})}
	h.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		h.total.Add(1)
		for n := h.active.Add(1); ; {
			if m := h.most.Load(); n <= m || h.most.CompareAndSwap(m, n) {
				break
			}
		}
		select {
		case <-h.release:
		case <-r.Context().Done():
			h.cancelled.Add(1)
		}
		h.active.Add(-1)
		io.WriteString(w, "done")
	})
	return h
}

// background sends requests and counts the statuses of their answers.
func background(ctx context.Context, g *running, n int, statuses chan<- int) {
	for range n {
		go func() {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			statuses <- res.StatusCode
		}()
	}
}

func TestSlotsAreNeverExceededAndTheRestWaits(t *testing.T) {
	a, b := newHolding(t), newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "x", 2), replicaBlock(b.Server, "x", 1)))
	statuses := make(chan int, 20)
	background(t.Context(), g, 20, statuses)
	eventually(t, "three are served and 17 wait", func() bool {
		s := g.state(t, "m")
		return a.active.Load() == 2 && b.active.Load() == 1 && s.busy() == 3 && s.Queued == 17
	})
	if q := g.metric(t, `aliquot_gateway_queued{service="m"}`); q != "17" {
		t.Errorf("the metric says %q wait", q)
	}
	go func() {
		for range 20 {
			select {
			case a.release <- struct{}{}:
			case b.release <- struct{}{}:
			}
		}
	}()
	for range 20 {
		if s := <-statuses; s != 200 {
			t.Errorf("status %d", s)
		}
	}
	if a.most.Load() != 2 || b.most.Load() != 1 || a.total.Load()+b.total.Load() != 20 {
		t.Errorf("at most %d and %d at once, %d in all; want 2, 1 and 20", a.most.Load(), b.most.Load(), a.total.Load()+b.total.Load())
	}
}

func TestABusyReplicaIsSentOneAhead(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "x", 1), "queue {\n send_ahead = 1\n}"))
	statuses := make(chan int, 5)
	background(t.Context(), g, 5, statuses)
	eventually(t, "one is served, one was sent ahead and three wait", func() bool {
		s := g.state(t, "m")
		return a.active.Load() == 2 && s.busy() == 2 && s.Queued == 3
	})
	for range 5 {
		a.release <- struct{}{}
	}
	for range 5 {
		if s := <-statuses; s != 200 {
			t.Errorf("status %d", s)
		}
	}
	if a.most.Load() != 2 || a.total.Load() != 5 {
		t.Errorf("at most %d at once, %d in all; want 2 and 5", a.most.Load(), a.total.Load())
	}
}

func TestAClientThatLeavesFreesItsPlaceAtOnce(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1)))
	serving, leave := context.WithCancel(t.Context())
	waiting, leaveQueue := context.WithCancel(t.Context())
	statuses := make(chan int, 3)
	background(serving, g, 1, statuses)
	eventually(t, "one is served", func() bool { return a.active.Load() == 1 })
	background(waiting, g, 1, statuses)
	eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
	leaveQueue()
	eventually(t, "none waits", func() bool { return g.state(t, "m").Queued == 0 })
	leave()
	eventually(t, "the replica is told", func() bool { return a.cancelled.Load() == 1 })
	eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
	<-statuses
	<-statuses
	for _, outcome := range []string{"left_waiting", "left_serving"} {
		eventually(t, "counted as "+outcome, func() bool {
			return g.metric(t, `aliquot_gateway_requests_total{code="4xx",outcome="`+outcome+`",service="m"}`) == "1"
		})
	}
	if a.total.Load() != 1 {
		t.Errorf("the replica saw %d requests", a.total.Load())
	}
}

// A client that half-closes its connection is taken to have left: TCP does not tell the
// two apart. Its place is free, and it is counted.
func TestAClientThatHalfClosesHasLeft(t *testing.T) {
	hold := newHolding(t)
	g := start(t, service("m", replicaBlock(hold.Server, "", 1)))
	defer close(hold.release)
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "it is served", func() bool { return g.state(t, "m").busy() == 1 })
	c.(*net.TCPConn).CloseWrite()
	eventually(t, "the slot is free and the client counted", func() bool {
		return g.state(t, "m").busy() == 0 && g.metric(t, `aliquot_gateway_requests_total{code="4xx",outcome="left_serving",service="m"}`) == "1"
	})
}

func TestTheQueueIsBoundedInLengthAndTime(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1), "queue {\n max = 1\n max_wait = \"300ms\"\n}"))
	statuses := make(chan int, 3)
	background(t.Context(), g, 1, statuses)
	eventually(t, "one is served", func() bool { return a.active.Load() == 1 })
	background(t.Context(), g, 1, statuses)
	eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
	status, body, header := get(t, g.url)
	if status != 503 || header.Get("Retry-After") == "" || header.Get("X-Aliquot-Outcome") != "queue_full" {
		t.Errorf("a full queue: %d %q %v", status, body, header)
	}
	if s := <-statuses; s != 503 {
		t.Errorf("the one that waited: %d", s)
	}
	a.release <- struct{}{}
	<-statuses
}

func TestRefusedConnectionsAreTriedElsewhere(t *testing.T) {
	address := nobody(t)
	var total atomic.Int64
	live := serve(t, func(w http.ResponseWriter, r *http.Request) {
		total.Add(1)
		io.Copy(w, r.Body)
	})
	g := start(t, service("m", fmt.Sprintf("replica {\n address = %q\n class = \"h100\"\n}", address), replicaBlock(live, "t4", 1)))
	for range 5 {
		// A body of unknown length, which cannot be sent twice, is no obstacle: none
		// of it was sent.
		r, _ := http.NewRequest(http.MethodPost, g.url, io.MultiReader(strings.NewReader("hello")))
		if status, body, _ := do(t, r); status != 200 || body != "hello" {
			t.Fatalf("%d %q", status, body)
		}
	}
	if total.Load() != 5 {
		t.Errorf("the live replica saw %d requests, want 5", total.Load())
	}
}

func TestARefusalByTheReplicaIsTriedElsewhere(t *testing.T) {
	var busy, total atomic.Int64
	one := serve(t, func(w http.ResponseWriter, r *http.Request) {
		busy.Add(1)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(503)
	})
	two := serve(t, func(w http.ResponseWriter, r *http.Request) {
		total.Add(1)
		io.Copy(w, r.Body)
	})
	g := start(t, service("m", replicaBlock(one, "h100", 1), replicaBlock(two, "t4", 1), "route {\n models = [\"x\"]\n}"))
	text := `{"messages": [], "model": "x"}`
	r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	if status, body, _ := do(t, r); status != 200 || body != text {
		t.Errorf("%d %q", status, body)
	}
	if busy.Load() != 1 || total.Load() != 1 {
		t.Errorf("%d refusals, %d served", busy.Load(), total.Load())
	}
}

// breaking is a replica that takes the request and then breaks the connection.
func breaking(t *testing.T, total *atomic.Int64) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		total.Add(1)
		panic(http.ErrAbortHandler)
	})
}

func TestOnlyHarmlessRequestsAreRepeatedAfterABreak(t *testing.T) {
	for _, c := range []struct {
		method, key string
		repeated    bool
	}{{"GET", "", true}, {"POST", "", false}, {"POST", "abc", true}, {"PATCH", "", false}, {"DELETE", "", true}} {
		var broken, total atomic.Int64
		one := breaking(t, &broken)
		two := serve(t, func(w http.ResponseWriter, r *http.Request) { total.Add(1) })
		g := start(t, service("m", replicaBlock(one, "h100", 1), replicaBlock(two, "t4", 1)))
		r, _ := http.NewRequest(c.method, g.url, nil)
		if c.key != "" {
			r.Header.Set("Idempotency-Key", c.key)
		}
		status, _, _ := do(t, r)
		if c.repeated != (status == 200) || c.repeated == (status == 502) {
			t.Errorf("%s %s: %d after %d broken attempts", c.method, c.key, status, broken.Load())
		}
	}
}

func TestARequestThatBreaksTwiceIsGivenUp(t *testing.T) {
	var total atomic.Int64
	replica := breaking(t, &total)
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	if status, _, _ := get(t, g.url); status != 502 || total.Load() < 3 {
		t.Errorf("%d after %d attempts, want 502 after 3", status, total.Load())
	}
	if got := g.metric(t, `aliquot_gateway_retries_total{service="m"}`); got != "2" {
		t.Errorf("%s retries counted", got)
	}
}

func TestAnAnswerThatBreaksOffIsNotMadeWhole(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	res, err := http.Get(g.url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the client got %q as if it were whole", body)
	}
	eventually(t, "counted as broken", func() bool {
		return g.metric(t, `aliquot_gateway_requests_total{code="2xx",outcome="broken",service="m"}`) == "1"
	})
}

func TestDeadlinesTenantsAndPrioritiesComeFromHeaders(t *testing.T) {
	a := newHolding(t)
	g := start(t, `priorities = ["interactive", "batch"]
tenants {
  header = "X-Tenant"
  tenant "small" {
    max_queue = 1
    priority = "batch"
  }
}
`+service("m", replicaBlock(a.Server, "", 1)))
	send := func(header map[string]string) (int, http.Header) {
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		for k, v := range header {
			r.Header.Set(k, v)
		}
		status, _, h := do(t, r)
		return status, h
	}
	statuses := make(chan int, 10)
	background(t.Context(), g, 1, statuses)
	eventually(t, "one is served", func() bool { return a.active.Load() == 1 })
	go send(map[string]string{"X-Tenant": "small", "X-Priority": "interactive"})
	eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
	if status, h := send(map[string]string{"X-Tenant": "small"}); status != 429 || h.Get("Retry-After") == "" {
		t.Errorf("a tenant beyond its limit: %d %v", status, h)
	}
	if status, _ := send(map[string]string{"X-Request-Timeout": "0.2"}); status != 503 {
		t.Errorf("a deadline that passes: %d", status)
	}
	if status, _ := send(map[string]string{"X-Request-Timeout": "soon"}); status != 400 {
		t.Errorf("a deadline that is none: %d", status)
	}
	background(t.Context(), g, 1, statuses)
	eventually(t, "two wait", func() bool { return g.state(t, "m").Queued == 2 })
	if got, want := g.state(t, "m").Waits, []api.Wait{{Priority: "interactive", Tenant: "other", Requests: 1}, {Priority: "batch", Tenant: "small", Requests: 1}}; !slices.Equal(got, want) {
		t.Errorf("who waits: %v, want %v", got, want)
	}
	a.release <- struct{}{}
	<-statuses
	// Of the two, the one whose tenant may not be interactive comes last.
	a.release <- struct{}{}
	if s := <-statuses; s != 200 {
		t.Errorf("the interactive one: %d", s)
	}
	a.release <- struct{}{}
	eventually(t, "all are done", func() bool { return a.active.Load() == 0 && g.state(t, "m").Queued == 0 })
}

func TestConcurrencySeries(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "h100", 2)))
	statuses := make(chan int, 3)
	background(t.Context(), g, 3, statuses)
	eventually(t, "two are served", func() bool { return a.active.Load() == 2 })
	var got api.Concurrency
	eventually(t, "two whole seconds at 1 waiting and 2 active", func() bool {
		g.admin200(t, "/v1/services/m/concurrency?window=2s", &got)
		n := len(got.Series)
		if n < 2 {
			return false
		}
		for _, p := range got.Series[n-2:] {
			if p.Queued < 0.999 || p.Queued > 1.001 || p.Active < 1.999 || p.Active > 2.001 || p.Class["h100"].Active != p.Active {
				return false
			}
		}
		return true
	})
	if got.Service != "m" || got.StepSeconds != 1 || got.Series[1].Time != got.Series[0].Time+1 || got.Now.Unix() <= got.Series[1].Time {
		t.Errorf("answer %+v", got)
	}
	for range 3 {
		a.release <- struct{}{}
		<-statuses
	}
	for path, want := range map[string]int{"/v1/services/none/concurrency": 404, "/v1/services/m/concurrency?window=x": 400, "/v1/services/m/concurrency?window=1ms": 400} {
		if status, _, _ := get(t, g.admin+path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

func TestDrainLosesNoRequest(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1))+"drain {\n delay = \"300ms\"\n timeout = \"10s\"\n}\n")
	statuses := make(chan int, 4)
	background(t.Context(), g, 2, statuses)
	eventually(t, "one is served, one waits", func() bool { s := g.state(t, "m"); return s.busy() == 1 && s.Queued == 1 })
	ended := make(chan error, 1)
	go func() { ended <- g.stop() }()
	eventually(t, "it says that it leaves", func() bool {
		res, err := http.Get(g.admin + "/v1/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 503
	})
	background(t.Context(), g, 1, statuses) // still served
	eventually(t, "the late one waits", func() bool { return g.state(t, "m").Queued == 2 })
	for range 3 {
		a.release <- struct{}{}
		if s := <-statuses; s != 200 {
			t.Errorf("status %d", s)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := http.Get(g.url); err == nil {
		t.Error("a gateway that has ended answers")
	}
}

func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1))+"drain {\n delay = \"0s\"\n timeout = \"200ms\"\n}\n")
	statuses := make(chan int, 2)
	background(t.Context(), g, 2, statuses)
	eventually(t, "one is served, one waits", func() bool { s := g.state(t, "m"); return s.busy() == 1 && s.Queued == 1 })
	if err := g.stop(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if s := <-statuses; s != 503 && s != 0 {
			t.Errorf("status %s", strconv.Itoa(s))
		}
	}
}
