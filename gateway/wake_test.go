package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/gateway/config"
)

// nomads is a Nomad that scales after a while, or refuses.
type nomads struct {
	mu     sync.Mutex // of calls
	counts map[string]int
	full   map[string]bool // jobs for which there is no node
	refuse map[string]error
	calls  []string
	takes  time.Duration
}

// called is which jobs were scaled so far.
func (n *nomads) called() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.calls)
}

func (n *nomads) Count(_ context.Context, job, group string) (int, int, error) {
	if n.full[job] {
		return n.counts[job], 0, nil
	}
	return n.counts[job], n.counts[job], nil
}

func (n *nomads) Scale(_ context.Context, job, group string, count int, reason string) error {
	time.Sleep(n.takes)
	n.mu.Lock()
	n.calls = append(n.calls, job)
	n.mu.Unlock()
	if err := n.refuse[job]; err != nil {
		return err
	}
	n.counts[job] = count
	return nil
}

// waiting is a queue that starves for some classes until told otherwise.
type waiting map[string]bool

func (w waiting) Starving() bool               { return len(w) > 0 }
func (w waiting) StarvesFor(class string) bool { return w[class] || w["any"] }

func wakerOf(n *nomads) *waker {
	return newWaker("m", &config.Wake{Interval: 5 * time.Second, Place: 30 * time.Second, Targets: []config.Target{
		{Job: "cheap", Group: "g", Class: "t4", Cost: 1}, {Job: "dear", Group: "g", Class: "h100", Cost: 4},
	}}, n, newMetrics(), slog.New(slog.DiscardHandler))
}

func TestTheCheapestGroupIsStartedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nomads{counts: map[string]int{}, takes: 100 * time.Millisecond}
		w, queue := wakerOf(n), waiting{"any": true}
		go w.run(t.Context(), queue)
		for range 100 {
			w.ask()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(n.calls) != 1 || n.calls[0] != "cheap" {
			t.Errorf("scaled %v, want the cheap one once", n.calls)
		}
		clear(queue)
	})
}

func TestARefusalFallsToTheNextGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nomads{counts: map[string]int{}, refuse: map[string]error{"cheap": errors.New("job scaling blocked due to active deployment")}}
		w, queue := wakerOf(n), waiting{"any": true}
		go w.run(t.Context(), queue)
		w.ask()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if len(n.calls) != 2 || n.calls[1] != "dear" {
			t.Errorf("scaled %v, want the dear one after the cheap one refused", n.calls)
		}
		clear(queue)
	})
}

// The cheapest group was scaled but has no room: the next is tried, not at once.
func TestAGroupWithoutANodeFallsToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nomads{counts: map[string]int{}, full: map[string]bool{"cheap": true}}
		w, queue := wakerOf(n), waiting{"any": true}
		go w.run(t.Context(), queue)
		w.ask()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if calls := n.called(); len(calls) != 1 {
			t.Errorf("scaled %v within 25 s, want the cheap one only", calls)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(n.calls) != 2 || n.calls[1] != "dear" {
			t.Errorf("scaled %v, want the dear one after the cheap one found no node", n.calls)
		}
		clear(queue)
	})
}

func TestOnlyAGroupThatHelpsIsStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nomads{counts: map[string]int{"cheap": 2}}
		w, queue := wakerOf(n), waiting{"h100": true}
		go w.run(t.Context(), queue)
		w.ask()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(n.calls) != 1 || n.calls[0] != "dear" {
			t.Errorf("scaled %v, want the one whose class is required", n.calls)
		}
		clear(queue)
	})
}

func TestNomadIsAskedNoFasterThanTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := errors.New("no")
		n := &nomads{counts: map[string]int{}, refuse: map[string]error{"cheap": no, "dear": no}}
		w, queue := wakerOf(n), waiting{"any": true}
		go w.run(t.Context(), queue)
		for range 200 {
			w.ask()
			time.Sleep(50 * time.Millisecond)
		}
		synctest.Wait()
		if len(n.calls) < 18 || len(n.calls) > 22 {
			t.Errorf("%d requests to scale in 10 s of refusals, want two groups once a second", len(n.calls))
		}
		clear(queue)
	})
}
