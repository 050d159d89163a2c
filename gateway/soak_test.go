package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
)

// churn is a fleet whose replicas join, leave in order and crash. It is the
// gateway's source of replicas.
type churn struct {
	mu       sync.Mutex
	set      func([]line.Replica)
	replicas map[string]*churned
	over     atomic.Int64 // requests above a replica's slots
	crashes  atomic.Int64
	next     int
	pace     time.Duration // multiplies service times
	admin    string        // the gateway's admin listener
}

// forgotten reports whether the gateway has nothing at a replica any more, or is gone.
func (c *churn) forgotten(id string) bool {
	res, err := http.Get(c.admin + "/v1/services")
	if err != nil {
		return true
	}
	defer res.Body.Close()
	var all []api.Service
	if json.NewDecoder(res.Body).Decode(&all) != nil || len(all) != 1 {
		return true
	}
	return !slices.ContainsFunc(all[0].Replicas, func(r api.Replica) bool { return r.ID == id })
}

type churned struct {
	fleet    *churn
	listener net.Listener
	server   *http.Server
	replica  line.Replica
	mean     time.Duration
	active   atomic.Int64
}

func (c *churn) Watch(ctx context.Context, set func([]line.Replica)) {
	c.mu.Lock()
	c.set = set
	c.tell()
	c.mu.Unlock()
	<-ctx.Done()
}

// tell reports the present replicas; the lock is held.
func (c *churn) tell() {
	if c.set == nil {
		return
	}
	var all []line.Replica
	for _, r := range c.replicas {
		all = append(all, r.replica)
	}
	c.set(all)
}

func (c *churn) join(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	class, mean := "fast", 5*time.Millisecond
	if c.next%2 == 0 {
		class, mean = "slow", 20*time.Millisecond
	}
	r := &churned{fleet: c, listener: l, mean: mean * c.pace}
	r.replica = line.Replica{Address: l.Addr().String(), Replica: dispatch.Replica{ID: fmt.Sprint(c.next), Class: class, Slots: 2, Weight: float64(20*time.Millisecond) / float64(mean)}}
	r.server = &http.Server{Handler: r}
	go r.server.Serve(l)
	c.replicas[r.replica.ID] = r
	c.tell()
}

// remove takes a replica away: in order, so that it is gone from discovery before
// it stops, or by a crash, which discovery learns of only afterwards.
func (c *churn) remove(crash bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, r := range c.replicas {
		if crash {
			c.crashes.Add(1)
			r.server.Close()
		}
		delete(c.replicas, id)
		c.tell()
		if !crash {
			// As a task does that is given time: a request that was sent to it as it
			// closes would be lost.
			go func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for !c.forgotten(id) {
					<-tick.C
				}
				r.server.Shutdown(context.Background())
			}()
		}
		return
	}
}

func (r *churned) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	// A slot whose client left is free before the replica hears of it, so that only
	// requests of clients that stay can be held against the limit.
	if q.Header.Get("X-Stays") != "" {
		if r.active.Add(1) > int64(r.replica.Slots) {
			r.fleet.over.Add(1)
		}
	}
	t := time.NewTimer(time.Duration(rand.ExpFloat64() * float64(r.mean)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-q.Context().Done():
	}
	if q.Header.Get("X-Stays") != "" {
		r.active.Add(-1)
	}
	fmt.Fprint(w, "done")
}

// TestSoak keeps all slots of a fleet busy and requests waiting while replicas join,
// leave and crash and clients disconnect at random. Every request must end in
// exactly one known outcome, and nothing may be left over. ALIQUOT_SOAK sets its
// length, for example 10m.
func TestSoak(t *testing.T) {
	length := 20 * time.Second
	// A short run has many events and quick replicas; a long one is gentler on the
	// machine.
	every, pace := 500*time.Millisecond, 1
	if text := os.Getenv("ALIQUOT_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
		every, pace = 5*time.Second, 10
	} else if testing.Short() {
		length = 3 * time.Second
	}
	fleet := &churn{replicas: map[string]*churned{}, pace: time.Duration(pace)}
	for range 6 {
		fleet.join(t)
	}
	g := start(t, "service \"m\" {\n replicas_file = \"none\"\n queue {\n  max_wait = \"5m\"\n  eject_time = \"200ms\"\n }\n}\n",
		func(o *gateway.Options) {
			o.Source = func(config.Service) (gateway.Source, error) { return fleet, nil }
		})
	fleet.admin = g.admin
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
	eventually(t, "the gateway knows the fleet", func() bool { return len(g.state(t, "m").Replicas) == 6 })
	settle(client)
	before := runtime.NumGoroutine()
	heapBefore := heap()

	events, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var stirring sync.WaitGroup
	stirring.Go(func() { stir(events, t, fleet, every) })
	counts := storm(events, client, g.url, 24, time.Duration(pace))
	stirring.Wait()

	eventually(t, "nothing is queued or served", func() bool { s := g.state(t, "m"); return s.Queued == 0 && s.busy() == 0 })
	var asked int64
	for outcome, n := range counts {
		asked += n
		if !strings.Contains(" served left 502 503 ", " "+outcome+" ") {
			t.Errorf("%d requests ended as %q", n, outcome)
		}
	}
	t.Logf("%d requests: %v", asked, counts)
	// A client that left may have done so before its request was on its way.
	eventually(t, "every request is counted once", func() bool {
		n := g.counted(t)
		return n <= asked && n >= asked-counts["left"]
	})
	if over := fleet.over.Load(); over > 0 {
		t.Errorf("%d times a replica had more requests than slots", over)
	}
	// A crash breaks what the replica's two slots hold, and at most as many again that
	// are given to it before that is known. Nobody else may be lost, and nobody waits
	// for long enough to be refused.
	if lost := counts["502"]; lost > 4*fleet.crashes.Load() || counts["503"] > 0 || counts["served"] == 0 {
		t.Errorf("%d crashes: %v", fleet.crashes.Load(), counts)
	}
	for len(fleet.replicas) > 6 {
		fleet.remove(false)
	}
	for len(fleet.replicas) < 6 {
		fleet.join(t)
	}
	settle(client)
	eventually(t, "goroutines are as many as before", func() bool {
		client.CloseIdleConnections()
		return runtime.NumGoroutine() <= before+60
	})
	heapAfter := heap()
	t.Logf("goroutines %d before, %d after; heap %d KiB before, %d KiB after", before, runtime.NumGoroutine(), heapBefore>>10, heapAfter>>10)
	if grown := heapAfter - heapBefore; grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func settle(client *http.Client) {
	client.CloseIdleConnections()
	runtime.GC()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// stir makes one event after another; the fleet stays between four and eight
// replicas.
func stir(ctx context.Context, t *testing.T, fleet *churn, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		fleet.mu.Lock()
		n := len(fleet.replicas)
		fleet.mu.Unlock()
		switch {
		case n <= 4 || (n < 8 && rand.IntN(2) == 0):
			fleet.join(t)
		default:
			fleet.remove(rand.IntN(2) == 0)
		}
	}
}

// storm has clients send one request after another until ctx ends, of which a
// tenth leave before they are served, and counts how each ended for its client.
// The clients are more than the fleet has slots, so that some always wait, and wait
// for answers, so that a slow machine is asked for less rather than overrun.
func storm(ctx context.Context, client *http.Client, url string, clients int, pace time.Duration) map[string]int64 {
	counts := map[string]int64{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			for ctx.Err() == nil {
				outcome := one(client, url, pace)
				mu.Lock()
				counts[outcome]++
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return counts
}

func one(client *http.Client, url string, pace time.Duration) string {
	ctx := context.Background()
	impatient := rand.IntN(10) == 0
	if impatient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.ExpFloat64()*float64(10*time.Millisecond*pace)))
		defer cancel()
	}
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(strings.Repeat("x", rand.IntN(2000))))
	if !impatient {
		r.Header.Set("X-Stays", "1")
	}
	res, err := client.Do(r)
	if err != nil {
		if impatient {
			return "left"
		}
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil && impatient:
		return "left"
	case err != nil:
		return err.Error()
	case res.StatusCode == 200 && string(body) == "done":
		return "served"
	}
	return fmt.Sprint(res.StatusCode)
}

// counted sums the gateway's own count of ended requests.
func (r *running) counted(t *testing.T) int64 {
	t.Helper()
	res, err := http.Get(r.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	var sum int64
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "aliquot_gateway_requests_total{") {
			var n float64
			fmt.Sscan(l[strings.LastIndexByte(l, ' ')+1:], &n)
			sum += int64(n)
		}
	}
	return sum
}
