package gateways

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Requests that wait at the gateways that are left keep their order when the owner of the
// service is killed, whichever gateway they wait at.
func TestOrderOutlivesTheOwner(t *testing.T) {
	ctx, f := fleet(t, Options{}, 1)
	owner := f.owner(ctx, t)
	left := f.others(owner)
	const waiting = 12
	var (
		clients http.Client
		wait    sync.WaitGroup
	)
	ask := func(g *Gateway, id string, serve time.Duration) {
		wait.Go(func() {
			if err := g.Ask(ctx, &clients, id, serve, nil); err != nil {
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
	ask(left[0], "first", 4*time.Second)
	queued(0)
	for i := range waiting {
		ask(left[i%len(left)], fmt.Sprint(i), 10*time.Millisecond)
		queued(i + 1)
	}
	owner.Kill()
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
