package line

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/dispatch"
)

func replicas(n, slots int) []Replica {
	var out []Replica
	for i := range n {
		out = append(out, Replica{Address: fmt.Sprint(i), Replica: dispatch.Replica{ID: fmt.Sprint(i), Class: fmt.Sprintf("c%d", i%2), Slots: slots, Weight: float64(1 + i%2)}})
	}
	return out
}

func soon(d time.Duration) dispatch.Request { return dispatch.Request{Expire: time.Now().Add(d)} }

// Many goroutines enter, leave, retry and give up while replicas come and go: no
// slot is given twice, and every goroutine comes back exactly once.
func TestNoSlotIsGivenTwiceAndNoOneIsLost(t *testing.T) {
	l := New(Options{})
	const slots = 3
	all := replicas(6, slots)
	l.Set(all)
	var busy [6]atomic.Int64
	var served, refused atomic.Int64
	var wait sync.WaitGroup
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-stop:
				l.Set(all)
				return
			default:
			}
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			l.Set(all[:1+rand.IntN(len(all))])
		}
	})
	hold := func(p *Pass) {
		i := int(p.Endpoint.ID[0] - '0')
		if n := busy[i].Add(1); n > slots {
			t.Errorf("replica %d serves %d", i, n)
		}
		for range rand.IntN(3) {
			runtime.Gosched()
		}
		busy[i].Add(-1)
	}
	const each, loops = 300, 16
	for range loops {
		wait.Go(func() {
			for range each {
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(200))*time.Microsecond, cancel)
				}
				var p Pass
				err := l.Enter(ctx, &p, soon(10*time.Second))
				for err == nil && rand.IntN(5) == 0 {
					hold(&p)
					err = l.Again(ctx, &p, dispatch.Busy, 0)
				}
				if err != nil {
					refused.Add(1)
				} else {
					hold(&p)
					l.Leave(&p, dispatch.Served, 0)
					l.Leave(&p, dispatch.Served, 0) // a second time does nothing
					served.Add(1)
				}
				cancel()
			}
		})
	}
	wait.Wait()
	close(stop)
	churn.Wait()
	if served.Load()+refused.Load() != each*loops {
		t.Errorf("%d served and %d gave up of %d", served.Load(), refused.Load(), each*loops)
	}
	s := l.State()
	for class, n := range s.Active {
		if n != 0 {
			t.Errorf("%d of class %s are still served", n, class)
		}
	}
	if s.Queued != 0 {
		t.Errorf("%d still wait", s.Queued)
	}
	points := l.series
	for i, level := range points.now {
		if level != 0 {
			t.Errorf("column %d of the series ends at %g", i, level)
		}
	}
}

func TestAWaitEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starved := 0
		l := New(Options{Starved: func() { starved++ }})
		var p Pass
		began := time.Now()
		if err := l.Enter(t.Context(), &p, soon(3*time.Second)); !errors.Is(err, ErrExpired) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if starved != 1 {
			t.Errorf("told %d times that no replica is there", starved)
		}
		cause := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		if err := l.Enter(ctx, &p, soon(time.Minute)); !errors.Is(err, cause) {
			t.Errorf("a wait that is cancelled: %v", err)
		}
		time.AfterFunc(time.Second, func() { l.Set(replicas(1, 1)) })
		if err := l.Enter(t.Context(), &p, soon(time.Minute)); err != nil || p.Waited() != time.Second || p.Endpoint.Address != "0" {
			t.Errorf("a wait for the first replica: %v after %v", err, p.Waited())
		}
	})
}

// The waiting time is that for the current slot: without the time at a replica that was tried before,
// and without the time that a request that was sent ahead waits there.
func TestTheWaitIsForTheCurrentSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Policy: dispatch.Policy{SendAhead: 1}})
		l.Set(replicas(1, 1))
		var first, ahead Pass
		if err := l.Enter(t.Context(), &first, soon(time.Minute)); err != nil || first.Waited() != 0 {
			t.Fatalf("%v after %v", err, first.Waited())
		}
		time.Sleep(2 * time.Second)
		if err := l.Enter(t.Context(), &ahead, soon(time.Minute)); err != nil || ahead.Waited() != 0 {
			t.Fatalf("sent ahead: %v after %v", err, ahead.Waited())
		}
		time.Sleep(time.Second)
		done := make(chan struct{})
		go func() { // while the other is promoted
			defer close(done)
			if ahead.Waited() != 0 {
				t.Errorf("it waits %v at the gateway because it waits at the replica", ahead.Waited())
			}
		}()
		l.Leave(&first, dispatch.Served, 0)
		<-done
		if ahead.Waited() != 0 {
			t.Errorf("once it is served, it waited %v at the gateway", ahead.Waited())
		}
		time.AfterFunc(5*time.Second, func() { l.Set(replicas(2, 1)) })
		l.Set(nil)
		if err := l.Again(t.Context(), &ahead, dispatch.Failed, 0); err != nil || ahead.Waited() != 5*time.Second {
			t.Errorf("a second attempt: %v after %v, want 5s", err, ahead.Waited())
		}
	})
}

func TestARequestWhoseLastReplicaLeavesAsksForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starved := 0
		l := New(Options{Starved: func() { starved++ }})
		l.Set(replicas(1, 1))
		var a, b Pass
		if err := l.Enter(t.Context(), &a, soon(time.Minute)); err != nil {
			t.Fatal(err)
		}
		go l.Enter(t.Context(), &b, soon(time.Minute))
		synctest.Wait()
		if starved != 0 {
			t.Error("told that no replica is there although one is")
		}
		l.Set(nil)
		if starved != 1 {
			t.Errorf("told %d times that the last replica left", starved)
		}
	})
}

// An ejected replica is asked again without any other event.
func TestTheTimerBringsBackAnEjectedReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{})
		l.Set(replicas(1, 2))
		var p Pass
		if err := l.Enter(t.Context(), &p, soon(time.Minute)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := l.Again(t.Context(), &p, dispatch.Unreachable, 0); err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v, want the ejection's 1 s", err, time.Since(began))
		}
		l.Leave(&p, dispatch.Served, 0)
	})
}

func TestSeriesIsTheTimeWeightedMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // start within a second
		l := New(Options{})
		l.Set(replicas(1, 1))
		time.Sleep(700 * time.Millisecond)
		var a, b Pass
		time.Sleep(250 * time.Millisecond)
		if err := l.Enter(t.Context(), &a, soon(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { l.Leave(&a, dispatch.Served, 0) })
		time.Sleep(500 * time.Millisecond)
		if err := l.Enter(t.Context(), &b, soon(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		l.Leave(&b, dispatch.Served, 0)
		points := l.Concurrency(time.Now(), 3*time.Hour)
		if len(points) != depth {
			t.Fatalf("%d points, want the last %d seconds", len(points), depth)
		}
		for _, p := range points {
			if p.Queued != 0 || p.Active != 1 || p.Class["c0"] != 1 {
				t.Fatalf("a point while one request is served: %+v", p)
			}
		}
		for i := 1; i < len(points); i++ {
			if points[i].Second != points[i-1].Second+1 {
				t.Fatalf("seconds %d and %d follow each other", points[i-1].Second, points[i].Second)
			}
		}
	})
}

func TestSeriesWithinOneSecond(t *testing.T) {
	var s series
	at := func(ms int) time.Time { return time.UnixMilli(int64(1_000_000 + ms)) }
	s.start(at(0))
	s.queued(at(250), amount{2, 200})
	s.queued(at(500), amount{-1, -100})
	s.active(at(500), "h100", amount{1, 70})
	s.active(at(1500), "h100", amount{-1, -70})
	s.queued(at(1500), amount{-1, -100})
	s.advance(at(3000))
	for i, want := range []struct{ queued, active float64 }{{0.25*2 + 0.5, 0.5}, {0.5, 0.5}, {0, 0}} {
		got := s.ring[(1000+i)%depth]
		if d := got[queuedColumn] - want.queued; d > 1e-9 || d < -1e-9 || got[activeColumn] != want.active || got[fixedColumns] != want.active {
			t.Errorf("second %d: %v, want %v", i, got, want)
		}
		if got[queuedTokensColumn] != 100*got[queuedColumn] || got[activeTokensColumn] != 70*want.active || got[fixedColumns+1] != 70*want.active {
			t.Errorf("tokens of second %d: %v, want %v", i, got, want)
		}
	}
}

// What is learned of an answer while it streams lets the next request start.
func TestAFirstTokenMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Policy: dispatch.Policy{Mode: dispatch.Tokens}})
		l.Set([]Replica{{Replica: dispatch.Replica{ID: "r", Class: "l4", Weight: 1, KV: 100_000}}})
		long := soon(time.Hour)
		long.Prompt, long.Output = 40_000, 10
		var a, b Pass
		if err := l.Enter(t.Context(), &a, long); err != nil {
			t.Fatal(err)
		}
		entered := make(chan error)
		go func() { entered <- l.Enter(t.Context(), &b, long) }()
		synctest.Wait()
		if s := l.State(); s.Queued != 1 || s.Replicas[0].InFlight != 40_000 {
			t.Fatalf("%+v: want the second request to wait for the first one's prompt", s)
		}
		l.Began(&a)
		if err := <-entered; err != nil {
			t.Fatal(err)
		}
		l.Progress(&a, 5)
		l.Settle(&b, 30_000, 0, 7)
		if s := l.State(); s.Replicas[0].InFlight != 70_012 {
			t.Errorf("books are %+v", s.Replicas[0])
		}
		l.Leave(&a, dispatch.Served, 0)
		l.Leave(&b, dispatch.Served, 0)
	})
}

// A request that waits counts half of the answer that is expected of it, and one that
// streams what has come; nothing remains of one that is over.
func TestTokensInFlightAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Policy: dispatch.Policy{Mode: dispatch.Tokens}})
		l.Set([]Replica{{Replica: dispatch.Replica{ID: "r", Class: "l4", Weight: 1, Slots: 2}}})
		request := func(whole bool) dispatch.Request {
			r := soon(time.Hour)
			r.Prompt, r.Output, r.Whole = 1000, 100, whole
			return r
		}
		var stream, whole, waits Pass
		if err := errors.Join(l.Enter(t.Context(), &stream, request(false)), l.Enter(t.Context(), &whole, request(true))); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- l.Enter(ctx, &waits, request(false)) }()
		synctest.Wait()
		check := func(queued, active int) {
			t.Helper()
			if s := l.State(); s.QueuedTokens != queued || s.ActiveTokens["l4"] != active {
				t.Errorf("%d tokens wait and %v are served, want %d and %d", s.QueuedTokens, s.ActiveTokens, queued, active)
			}
		}
		check(1050, 1000+1050)
		l.Progress(&stream, 70)
		l.Progress(&whole, 3)
		check(1050, 1070+1050)
		time.Sleep(2 * time.Second)
		p := l.Concurrency(time.Now(), time.Second)[0]
		if p.Tokens.Queued != 1050 || p.Tokens.Active != 2120 || p.Tokens.Class["l4"] != 2120 {
			t.Errorf("the series says %+v", p)
		}
		leave()
		<-gone
		check(0, 2120)
		l.Leave(&stream, dispatch.Served, 0)
		l.Leave(&whole, dispatch.Failed, 0)
		check(0, 0)
	})
}

func TestAnEvictedRequestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Policy: dispatch.Policy{Priorities: 2, MaxQueue: 1}})
		batch := soon(time.Hour)
		batch.Priority = 1
		refused := make(chan error)
		var a, b Pass
		go func() { refused <- l.Enter(t.Context(), &a, batch) }()
		synctest.Wait()
		entered := make(chan error)
		go func() { entered <- l.Enter(t.Context(), &b, soon(time.Hour)) }()
		var why *Refused
		if err := <-refused; !errors.As(err, &why) || why.Why != dispatch.QueueFull {
			t.Errorf("the batch request that made room: %v", err)
		}
		l.Set(replicas(1, 1))
		if err := <-entered; err != nil {
			t.Error(err)
		}
		if s := l.State(); s.Queued != 0 {
			t.Errorf("%d wait", s.Queued)
		}
		l.Leave(&b, dispatch.Served, 0)
	})
}

// What an event of a stream costs in the line.
func BenchmarkProgress(b *testing.B) {
	l := New(Options{Policy: dispatch.Policy{Mode: dispatch.Tokens}})
	var all []Replica
	for i := range 64 {
		all = append(all, Replica{Address: fmt.Sprint(i), Replica: dispatch.Replica{ID: fmt.Sprint(i), Class: "h100", KV: 400_000}})
	}
	l.Set(all)
	passes := make([]Pass, 1024)
	for i := range passes {
		r := soon(time.Hour)
		r.Prompt = 100
		if err := l.Enter(b.Context(), &passes[i], r); err != nil {
			b.Fatal(err)
		}
		l.Began(&passes[i])
	}
	i := 0
	for b.Loop() {
		i++
		l.Progress(&passes[i%len(passes)], 1+i/len(passes))
	}
}
