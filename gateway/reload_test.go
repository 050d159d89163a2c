package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

// reload gives a running gateway another configuration.
func (r *running) reload(t *testing.T, text string) error {
	t.Helper()
	c, err := config.Parse([]byte(text+r.rest), "reloaded.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return r.Reload(inThisWay(c))
}

func TestAReloadLosesNoRequest(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	texts := []string{
		service("m", replicaBlock(replica, "", 4)),
		service("m", replicaBlock(replica, "", 4), "queue {\n max = 500\n}") + "tenants {\n tenant \"a\" {\n weight = 2\n }\n}\n",
		service("m", replicaBlock(replica, "", 2), "upstream {\n retries = 1\n}"),
		service("other", replicaBlock(replica, "", 2)) + "priorities = [\"high\", \"low\"]\n",
	}
	g := start(t, texts[0])
	var failed, asked atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				text := fmt.Sprint(i)
				res, err := http.Post(g.url, "text/plain", strings.NewReader(text))
				if err != nil {
					failed.Add(1)
					continue
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if asked.Add(1); res.StatusCode != 200 || string(body) != text {
					failed.Add(1)
				}
			}
		})
	}
	for i := range 12 {
		before := asked.Load()
		eventually(t, "requests go on", func() bool { return asked.Load() > before+20 || failed.Load() > 0 })
		if err := g.reload(t, texts[(i+1)%len(texts)]); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	clients.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
	}
}

func TestWhatWaitsWhenItsServiceIsRemovedIsServed(t *testing.T) {
	a := newHolding(t)
	fine := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "new") })
	g := start(t, service("m", replicaBlock(a.Server, "", 1)))
	statuses := make(chan int, 2)
	background(t.Context(), g, 2, statuses)
	eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
	if err := g.reload(t, service("n", replicaBlock(fine, "", 1))); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := get(t, g.url); status != 200 || body != "new" {
		t.Errorf("the new service: %d %q", status, body)
	}
	for range 2 {
		a.release <- struct{}{}
		if s := <-statuses; s != 200 {
			t.Errorf("a request of before: %d", s)
		}
	}
}

func TestAReloadKeepsWhatAServiceHas(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1)))
	statuses := make(chan int, 2)
	background(t.Context(), g, 2, statuses)
	eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
	if err := g.reload(t, service("m", replicaBlock(a.Server, "", 1), "queue {\n max = 1\n}", "route {\n path_prefix = \"/v2\"\n}")); err != nil {
		t.Fatal(err)
	}
	if s := g.state(t, "m"); s.Queued != 1 || s.busy() != 1 {
		t.Errorf("after the reload %d wait and %d are served", s.Queued, s.busy())
	}
	if status, _, header := get(t, g.url+"/v2"); status != 503 || header.Get("X-Aliquot-Outcome") != "queue_full" {
		t.Errorf("beyond the new bound: %d %v", status, header)
	}
	if status, _, _ := get(t, g.url); status != 404 {
		t.Errorf("a route that is gone: %d", status)
	}
	close(a.release)
	for range 2 {
		if s := <-statuses; s != 200 {
			t.Errorf("a request of before: %d", s)
		}
	}
}

func TestAReloadThatCannotBeChangesNothing(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "old") })
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	for _, text := range []string{
		service("n", replicaBlock(replica, "", 1), "upstream {\n protocol = \"https\"\n ca_file = \"/none\"\n}"),
		service("n", "consul {}"),
	} {
		if err := g.reload(t, text); err == nil {
			t.Errorf("reloaded:\n%s", text)
		}
	}
	if status, body, _ := get(t, g.url); status != 200 || body != "old" || len(g.state(t, "m").Replicas) != 1 {
		t.Errorf("%d %q", status, body)
	}
}

// found is a source that finds its replica after a while.
type found struct {
	when    chan struct{}
	ended   chan struct{}
	replica line.Replica
}

func (f *found) Watch(ctx context.Context, set func([]line.Replica)) {
	defer close(f.ended)
	select {
	case <-f.when:
		set([]line.Replica{f.replica})
		<-ctx.Done()
	case <-ctx.Done():
	}
}

// The body decides which service a request is for, so a service must not end while a body may still
// select it.
func TestAServiceOutlivesTheRequestsThatStillArrive(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "old") })
	fine := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "new") })
	address := strings.TrimPrefix(replica.URL, "http://")
	source := &found{make(chan struct{}), make(chan struct{}), line.Replica{Replica: dispatch.Replica{ID: "r", Slots: 1}, Address: address}}
	other := service("n", replicaBlock(fine, "", 1), "route {\n path_prefix = \"/n\"\n}")
	g := start(t, service("m", replicaBlock(replica, "", 1), "route {\n models = [\"m\"]\n}")+other, func(o *gateway.Options) {
		of := o.Source
		o.Source = func(s config.Service) (gateway.Source, error) {
			if s.Name == "m" {
				return source, nil
			}
			return of(s)
		}
	})
	body := `{"model":"m"}`
	c := g.dial(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)))
	answers := bufio.NewReader(c)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("the gateway does not take the body: %q %v", line, err)
	}
	for range 2 { // the second with the service gone already
		if err := g.reload(t, other); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := get(t, g.url+"/n"); status != 200 || body != "new" {
			t.Errorf("the other service: %d %q", status, body)
		}
	}
	io.WriteString(c, body)
	close(source.when)
	answer, err := io.ReadAll(answers)
	if text := string(answer); err != nil || !strings.Contains(text, " 200 OK") || !strings.HasSuffix(text, "old") {
		t.Errorf("the request of before: %q %v", text, err)
	}
	<-source.ended
}

// A service must not end while a request of another service may still fall back to it.
func TestAServiceOutlivesTheRequestsThatMayFallBackToIt(t *testing.T) {
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	busy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "old") })
	fine := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "new") })
	address := strings.TrimPrefix(replica.URL, "http://")
	source := &found{make(chan struct{}), make(chan struct{}), line.Replica{Replica: dispatch.Replica{ID: "r", Slots: 1}, Address: address}}
	other := service("n", replicaBlock(fine, "", 1), "route {\n path_prefix = \"/n\"\n}")
	only := "route {\n path_prefix = \"/none\"\n}"
	g := start(t, service("a", "fallback = \"m\"\n", replicaBlock(busy, "", 1))+service("m", "replicas_file = \"none\"\n", only, "queue {\n max_wait = \"20s\"\n}\n")+other, func(o *gateway.Options) {
		of := o.Source
		o.Source = func(s config.Service) (gateway.Source, error) {
			if s.Name == "m" {
				return source, nil
			}
			return of(s)
		}
	})
	got := make(chan string, 1)
	go func() {
		status, body, _ := get(t, g.url)
		got <- fmt.Sprint(status, " ", body)
	}()
	<-asked
	if err := g.reload(t, other); err != nil {
		t.Fatal(err)
	}
	select {
	case <-source.ended:
		t.Error("the fallback has ended")
	case <-time.After(300 * time.Millisecond): // services that may end do within 100 ms
	}
	close(answer)
	close(source.when)
	if text := <-got; text != "200 old" {
		t.Error(text)
	}
	<-source.ended
}
