package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// failing answers 500 at once, as an engine does that has died under its server.
func failing(seen *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		http.Error(w, "EngineDeadError", http.StatusInternalServerError)
	}
}

// ejected is a queue whose ejected replicas stay out for longer than a test takes.
const ejected = "queue {\n eject_time = \"10m\"\n eject_time_max = \"10m\"\n}"

func TestAReplicaThatFailsFastDoesNotTakeTheTraffic(t *testing.T) {
	var bad, good atomic.Int64
	fine := func(w http.ResponseWriter, r *http.Request) { good.Add(1); io.WriteString(w, "done") }
	a, b, dead := serve(t, fine), serve(t, fine), serve(t, failing(&bad))
	g := start(t, service("m", replicaBlock(a, "h100", 1), replicaBlock(b, "h100", 1), replicaBlock(dead, "t4", 1), ejected))
	for range 200 {
		get(t, g.url)
	}
	if bad.Load() > 5 || good.Load() != 200-bad.Load() {
		t.Errorf("the failing replica got %d of 200 requests, the others %d; want at most 5", bad.Load(), good.Load())
	}
	if rate := g.metric(t, `aliquot_gateway_learned_rate{class="t4",service="m"}`); rate != "" {
		t.Errorf("a speed of %s was learned from failures", rate)
	}
	if rate := g.metric(t, `aliquot_gateway_learned_rate{class="h100",service="m"}`); rate == "" {
		t.Error("no speed was learned from what was served")
	}
}

func TestAnEngineThatDiesLosesAHandfulOfThoseThatWait(t *testing.T) {
	var bad atomic.Int64
	var died atomic.Bool
	good := newHolding(t)
	next := make(chan struct{})
	dying := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !died.Load() {
			<-next
		}
		failing(&bad)(w, r)
	})
	g := start(t, service("m", replicaBlock(good.Server, "", 1), replicaBlock(dying, "", 1), ejected))
	statuses := make(chan int, 302)
	background(t.Context(), g, 302, statuses)
	eventually(t, "300 wait", func() bool { return g.state(t, "m").Queued == 300 })
	died.Store(true)
	close(next)
	close(good.release)
	count := map[int]int{}
	for range 302 {
		count[<-statuses]++
	}
	if count[500] > 5 || count[200]+count[500] != 302 {
		t.Errorf("answers %v, want at most 5 of 500 and the rest 200", count)
	}
}

func TestOnlyWholeGoodAnswersTeach(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		answer  func(w http.ResponseWriter)
		teaches bool
	}{
		"200":       {"POST", func(w http.ResponseWriter) { io.WriteString(w, "done") }, true},
		"201":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(201) }, true},
		"301":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(301) }, false},
		"304":       {"GET", func(w http.ResponseWriter) { w.WriteHeader(304) }, false},
		"400":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(400) }, false},
		"404":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(404) }, false},
		"429":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(429) }, false},
		"500":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(500) }, false},
		"501":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(501) }, false},
		"507":       {"POST", func(w http.ResponseWriter) { w.WriteHeader(507) }, false},
		"HEAD":      {"HEAD", func(w http.ResponseWriter) {}, false},
		"OPTIONS":   {"OPTIONS", func(w http.ResponseWriter) {}, false},
		"broken":    {"POST", func(w http.ResponseWriter) { w.(http.Flusher).Flush(); panic(http.ErrAbortHandler) }, false},
		"gRPC fine": {"POST", func(w http.ResponseWriter) { w.Header().Set("Grpc-Status", "0") }, true},
		"gRPC broken": {"POST", func(w http.ResponseWriter) {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "13")
			io.WriteString(w, "x")
		}, false},
		"gRPC asked": {"POST", func(w http.ResponseWriter) { w.Header().Set("Grpc-Status", "3") }, false},
	} {
		replica := serve(t, func(w http.ResponseWriter, r *http.Request) { c.answer(w) })
		g := start(t, service("m", replicaBlock(replica, "x", 1)))
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for range 4 { // the first three are the replica's warm-up; the fifth failure would eject it
			r, _ := http.NewRequest(c.method, g.url, nil)
			res, err := client.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		eventually(t, name+": no slot is held", func() bool { return g.state(t, "m").busy() == 0 })
		if rate := g.metric(t, `aliquot_gateway_learned_rate{class="x",service="m"}`); (rate != "") != c.teaches {
			t.Errorf("%s: learned %q, teaches %t", name, rate, c.teaches)
		}
		g.stop()
	}
}

// Half of all requests are the clients' mistakes, which a fast class answers at
// once: none of them counts as work.
func TestClientErrorsNeitherTeachNorEject(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no such model", http.StatusBadRequest) })
	g := start(t, service("m", replicaBlock(replica, "h100", 1), ejected))
	for range 30 {
		if status, body, _ := get(t, g.url); status != 400 || !strings.Contains(body, "no such model") {
			t.Fatal(fmt.Sprint(status, body))
		}
	}
	if s := g.state(t, "m"); s.Replicas[0].Ejected {
		t.Error("the replica is ejected for its clients' mistakes")
	}
}
