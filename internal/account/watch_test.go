package account

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// agent answers as the agent of a node does, with blocking queries of its allocations.
type agent struct {
	mu          sync.Mutex
	index       int
	allocations []*api.Allocation
	woken       chan struct{}
	denied      bool
}

func (a *agent) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	a.index++
	close(a.woken)
	a.woken = make(chan struct{})
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	woken, index, allocations, denied := a.woken, a.index, a.allocations, a.denied
	a.mu.Unlock()
	var answer any
	switch {
	case denied:
		http.Error(w, "Permission denied", http.StatusForbidden)
		return
	case r.URL.Path == "/v1/agent/self":
		answer = map[string]any{"stats": map[string]any{"client": map[string]string{"node_id": "node"}}}
	case strings.HasSuffix(r.URL.Path, "/allocations"):
		if since, _ := strconv.Atoi(r.URL.Query().Get("index")); since >= index {
			select {
			case <-woken:
			case <-r.Context().Done():
				return
			}
			a.mu.Lock()
			index, allocations = a.index, a.allocations
			a.mu.Unlock()
		}
		w.Header().Set("X-Nomad-Index", fmt.Sprint(index))
		answer = allocations
	default:
		answer = whole()
	}
	_ = json.NewEncoder(w).Encode(answer)
}

const patience = 30 * time.Second

func next[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

func TestLevelsFollowTheAllocations(t *testing.T) {
	a := &agent{index: 1, woken: make(chan struct{})}
	server := httptest.NewServer(a)
	defer server.Close()
	client, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	published, problems := make(chan map[string]string, 9), make(chan error, 9)
	ctx, cancel := context.WithCancel(t.Context())
	w := Watcher{Nomad: client, Publish: func(m map[string]string) { published <- m }, Problem: func(err error) { problems <- err }}
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()

	empty := next(t, published, "levels at the start")
	if empty[pack.RoomAttribute] != fmt.Sprint(pack.Room(4)) || len(empty) != len(pack.Start().Classes())+1 {
		t.Errorf("an empty node publishes %v", empty)
	}
	// A whole GPU is taken by a task of another driver.
	a.set(func() {
		a.allocations = append(a.allocations, allocation("one", api.AllocClientStatusRunning, 100, "GPU-0"))
	})
	if got := next(t, published, "levels after a placement"); got[pack.RoomAttribute] != fmt.Sprint(pack.Room(3)) {
		t.Errorf("with one GPU less it publishes %v", got)
	}
	// What changes no level is not published: the next that comes is the one after.
	a.set(func() {
		a.allocations = append(a.allocations, allocation("idle", api.AllocClientStatusRunning, 1))
	})
	a.set(func() { a.denied = true })
	if err := next(t, problems, "problem"); !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("the problem is %v", err)
	}
	a.set(func() { a.denied, a.allocations = false, nil })
	if got := next(t, published, "levels after the end"); got[pack.RoomAttribute] != empty[pack.RoomAttribute] {
		t.Errorf("an empty node publishes %v", got)
	}
	cancel()
	next(t, done, "end")
	if len(published) > 0 {
		t.Errorf("%d more times something was published", len(published))
	}
}
