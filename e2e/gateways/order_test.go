package gateways

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// apart is the time between two requests. Gateways send times as distances from now, so a new owner
// knows an arrival only as exactly as messages are fast, on a busy machine too.
const apart = 200 * time.Millisecond

// When the owner of the service is killed, requests that wait at the remaining gateways keep their
// order, whichever gateway they wait at.
func TestOrderOutlivesTheOwner(t *testing.T) {
	ctx, f := fleet(t, Options{}, 1)
	owner := f.owner(ctx, t)
	left := f.others(owner)
	const waiting = 12
	// The first request holds the slot until all others wait and another gateway owns the service,
	// however long that takes.
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	f.options.Replicas[0].Serve = func(r *http.Request) {
		if r.Header.Get("X-Id") != "first" {
			return
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	var (
		clients http.Client
		wait    sync.WaitGroup
	)
	ask := func(g *Gateway, id string) {
		wait.Go(func() {
			if err := g.Ask(ctx, &clients, id, 0, nil); err != nil {
				t.Errorf("request %s at gateway %d: %v", id, g.Index, err)
			}
		})
	}
	queued := func(want int) {
		t.Helper()
		err := Await(ctx, "requests wait", func() string {
			n, busy := 0, 0
			for _, g := range f.Gateways { // each says what it carries
				s, err := g.State(ctx)
				if err != nil {
					return err.Error()
				}
				n += s.Queued
				for _, active := range s.Active {
					busy += active
				}
			}
			if n != want || busy != 1 {
				return fmt.Sprintf("%d wait and %d are served, want %d and 1", n, busy, want)
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask(left[0], "first")
	queued(0)
	for i := range waiting {
		ask(left[i%len(left)], fmt.Sprint(i))
		queued(i + 1)
		lastsFor(ctx, apart, time.Now())
	}
	owner.Kill()
	f.owner(ctx, t)
	free()
	wait.Wait()
	starts := f.options.Replicas[0].Starts()
	if len(starts) != waiting+1 {
		t.Fatalf("%d requests began, want %d", len(starts), waiting+1)
	}
	for i, s := range starts[1:] {
		if s.ID != fmt.Sprint(i) {
			t.Errorf("request %s began in place %d", s.ID, i)
		}
	}
	if wrong := f.options.Replicas[0].Exceeded(); len(wrong) > 0 {
		t.Error(wrong)
	}
}
