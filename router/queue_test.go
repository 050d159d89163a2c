package router

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueGivesANameToOneWorkerAtATime(t *testing.T) {
	q := newQueue()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	busy, served := map[string]bool{}, 0
	var workers, adders sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				name, ok := q.next(ctx)
				if !ok {
					return
				}
				mu.Lock()
				if busy[name] {
					t.Errorf("%s is with two workers", name)
				}
				busy[name] = true
				served++
				mu.Unlock()
				mu.Lock()
				busy[name] = false
				mu.Unlock()
				q.done(name)
			}
		})
	}
	for range 4 {
		adders.Go(func() {
			for i := range 1000 {
				q.add(fmt.Sprint(i % 7))
			}
		})
	}
	adders.Wait()
	cancel()
	workers.Wait()
	if served == 0 {
		t.Error("nothing was served")
	}
}

func TestQueueServesAgainWhatWasAddedMeanwhile(t *testing.T) {
	q := newQueue()
	q.add("a")
	q.add("a")
	name, _ := q.next(t.Context())
	q.add("a")
	q.add("a")
	q.done(name)
	if got, ok := q.next(t.Context()); !ok || got != "a" {
		t.Fatalf("got %q, %v", got, ok)
	}
	q.done("a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, ok := q.next(ctx); ok {
		t.Fatalf("%q comes a third time", got)
	}
}

func TestQueueKeepsTheEarliestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		start := time.Now()
		q.addAfter("a", time.Minute)
		q.addAfter("a", time.Second)
		q.addAfter("a", time.Hour)
		if name, ok := q.next(t.Context()); !ok || name != "a" || time.Since(start) != time.Second {
			t.Fatalf("%q, %v after %s", name, ok, time.Since(start))
		}
		q.done("a")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		if name, ok := q.next(ctx); ok {
			t.Fatalf("%q comes again", name)
		}
	})
}
