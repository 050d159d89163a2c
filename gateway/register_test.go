package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// agents is a Consul agent that refuses for a while.
type agents struct {
	asked   atomic.Int64
	refuses int64
}

func (a *agents) Register(ctx context.Context, public, admin string) error {
	if a.asked.Add(1) <= a.refuses {
		return errors.New("no")
	}
	return nil
}

func (a *agents) Deregister(context.Context) error { return nil }

// hung is a Consul agent that accepts and never answers.
type hung struct{ ended chan error }

func (h *hung) Register(ctx context.Context, public, admin string) error {
	<-ctx.Done()
	h.ended <- ctx.Err()
	return ctx.Err()
}

func (h *hung) Deregister(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// An agent that hangs is asked again, and keeps no gateway from its end.
func TestAnAgentThatHangsKeepsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{log: slog.New(slog.DiscardHandler), publicAddress: &net.TCPAddr{}, adminAddress: &net.TCPAddr{}}
		h := &hung{ended: make(chan error, 100)}
		ctx, cancel := context.WithCancel(t.Context())
		go s.register(ctx, h)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(h.ended); n < 2 {
			t.Fatalf("asked %d times to the end within a minute", n)
		}
		for len(h.ended) > 0 {
			<-h.ended
		}
		cancel()
		synctest.Wait()
		if !s.announcing.TryLock() {
			t.Error("the gateway cannot take its announcement back")
		}
	})
}

// An agent that lost its data is given the gateway again, and one that the gateway has
// left is not.
func TestTheGatewayIsAnnouncedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{log: slog.New(slog.DiscardHandler), publicAddress: &net.TCPAddr{}, adminAddress: &net.TCPAddr{}}
		a := &agents{refuses: 2}
		ctx, cancel := context.WithCancel(t.Context())
		go s.register(ctx, a)
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		if n := a.asked.Load(); n != 3 {
			t.Errorf("announced %d times in 3.5 s with two refusals, want 3", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		n := a.asked.Load()
		if n != 9 {
			t.Errorf("announced %d times a minute later, want six more", n)
		}
		s.leaving.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if a.asked.Load() != n {
			t.Error("announced after it left")
		}
		cancel()
		synctest.Wait()
	})
}
