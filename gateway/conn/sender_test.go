package conn

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// buffered is a socket as the kernel has it: it takes what there is room for, and a write
// that waits goes on only when a third of the room is free.
type buffered struct {
	mu       sync.Mutex
	size     int
	held     int
	deadline time.Time
	moved    chan struct{}
}

func newBuffered(size int) *buffered { return &buffered{size: size, moved: make(chan struct{})} }

func (b *buffered) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.moved)
	b.moved = make(chan struct{})
}

func (b *buffered) offer(p []byte) (n int, err error) {
	b.change(func() {
		n = min(len(p), b.size-b.held)
		b.held += n
	})
	return n, nil
}

func (b *buffered) Write(p []byte) (int, error) {
	done := 0
	for {
		b.mu.Lock()
		room, by, moved := b.size-b.held, b.deadline, b.moved
		b.mu.Unlock()
		if 3*room >= b.size {
			n, _ := b.offer(p[done:])
			if done += n; done == len(p) {
				return done, nil
			}
			continue
		}
		passes := make(<-chan time.Time)
		if !by.IsZero() {
			passes = time.After(time.Until(by))
		}
		select {
		case <-moved:
		case <-passes:
			return done, os.ErrDeadlineExceeded
		}
	}
}

func (b *buffered) SetWriteDeadline(t time.Time) error {
	b.change(func() { b.deadline = t })
	return nil
}

func (b *buffered) unread() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.held)
}

// take is a client that takes so much, at times that lie so far apart, until the test's end.
func (b *buffered) take(t *testing.T, n int, every time.Duration) {
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.change(func() { b.held -= min(n, b.held) })
			case <-t.Context().Done():
				return
			}
		}
	}()
}

func TestWritesLastAsLongAsTheClientTakes(t *testing.T) {
	const patience, room = 10 * time.Second, 3 << 20
	for name, d := range map[string]struct {
		takes, bytes int
		every        time.Duration
		wanted       time.Duration // the server's own deadline, 0 for none
		lasts        time.Duration
		whole        bool
	}{
		"all at once":                   {0, room, 0, 0, 0, true},
		"nothing":                       {0, room + 1, 0, 0, patience, false},
		"slowly":                        {32 << 10, 2 * room, time.Second, 0, 96 * time.Second, true},
		"seldom":                        {1 << 20, 2 * room, 11 * time.Second, 0, patience, false},
		"a byte now and then":           {1, 2 * room, time.Second, 0, 2 * patience, false},
		"slowly, but with a deadline":   {32 << 10, 2 * room, time.Second, 25 * time.Second, 25 * time.Second, false},
		"nothing, with a late deadline": {0, room + 1, 0, time.Minute, patience, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuffered(room)
				s := &sender{outlet: b, patience: patience}
				if d.takes > 0 {
					b.take(t, d.takes, d.every)
				}
				if d.wanted > 0 {
					s.deadline(time.Now().Add(d.wanted))
				}
				began := time.Now()
				n, err := s.write(make([]byte, d.bytes))
				if took := time.Since(began); took != d.lasts || (n == d.bytes) != d.whole || (err == nil) != d.whole {
					t.Errorf("%d of %d bytes after %v, %v; want %v", n, d.bytes, took, err, d.lasts)
				}
				if !d.whole && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// A deadline of the server's ends a write that waits already, and is gone when it is taken
// back.
func TestADeadlineMovesUnderAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, moves := range []struct{ in, lasts time.Duration }{{5 * time.Second, 5 * time.Second}, {0, time.Minute}} {
			s := &sender{outlet: newBuffered(10), patience: time.Minute}
			s.deadline(time.Now().Add(10 * time.Second))
			time.AfterFunc(time.Second, func() {
				at := time.Time{}
				if moves.in > 0 {
					at = time.Now().Add(moves.in - time.Second)
				}
				s.deadline(at)
			})
			began := time.Now()
			if n, err := s.write(make([]byte, 20)); err == nil || time.Since(began) != moves.lasts {
				t.Errorf("%d bytes, %v after %v, want %v", n, err, time.Since(began), moves.lasts)
			}
		}
	})
}

// The real socket says what the client has not taken, and what it does not take at once.
func TestASocketSaysWhatItTook(t *testing.T) {
	server, client := pair(t)
	s := &server.(*clientConn).sender
	sent := int64(0)
	for {
		n, err := s.outlet.offer(make([]byte, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if sent += int64(n); n < 1<<20 {
			break
		}
	}
	if s.outlet.unread() == 0 {
		t.Error("all is read although the client reads nothing")
	}
	if _, err := io.CopyN(io.Discard, client, sent); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(time.Minute); s.outlet.unread() > 0; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the client has read all, and the socket does not say so")
		}
	}
	client.Close()
	var err error
	for err == nil {
		_, err = server.Write([]byte("x"))
	}
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("to a client that left: %v", err)
	}
}
