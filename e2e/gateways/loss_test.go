package gateways

import (
	"context"
	"slices"
	"testing"
	"time"
)

// served is the mean time for which a replica serves a request in these tests: much shorter than
// the silence after which a gateway counts as lost.
const served = 60 * time.Millisecond

func gapOf(since time.Time, starts []time.Time) (longest, first time.Duration) {
	slices.SortFunc(starts, time.Time.Compare)
	last := since
	for _, at := range starts {
		longest = max(longest, at.Sub(last))
		last = at
	}
	if len(starts) > 0 {
		first = starts[0].Sub(since)
	}
	return longest, first
}

// Gateways are killed under load. All requests at the remaining gateways are served, no replica
// gets more requests than it has slots, and no slot is lost with the gateway that held it.
func TestKilledGateways(t *testing.T) {
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	for range rounds {
		for _, loss := range []struct {
			what string
			of   func(owner *Gateway) []*Gateway
		}{
			{"the owner", func(owner *Gateway) []*Gateway { return []*Gateway{owner} }},
			{"another", func(owner *Gateway) []*Gateway { return f.others(owner)[:1] }},
			{"the owner and another", func(owner *Gateway) []*Gateway { return []*Gateway{owner, f.others(owner)[0]} }},
			{"all but the owner", f.others},
		} {
			f.killAndReplace(ctx, t, l, loss.what, loss.of(f.owner(ctx, t)))
		}
	}
	f.verdict(t, l)
}

func (f *Fleet) killAndReplace(ctx context.Context, t *testing.T, l *Load, what string, lost []*Gateway) {
	t.Helper()
	f.reset()
	at := time.Now()
	for _, g := range lost {
		g.Kill()
	}
	f.owner(ctx, t)
	settled := time.Since(at)
	l.goOn(ctx, t, 5, f.Live())
	longest, first := f.gap(at)
	t.Logf("%s killed: the next request began after %v, the longest time without one was %v, all agree after %v", what, first.Round(time.Millisecond), longest.Round(time.Millisecond), settled.Round(time.Millisecond))
	f.reset()
	f.full(ctx, t)
	for _, g := range lost {
		if err := g.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	f.owner(ctx, t)
	l.goOn(ctx, t, 5, f.Gateways)
}

// lastsFor returns when a fault has lasted for d since it began.
func lastsFor(ctx context.Context, d time.Duration, since time.Time) {
	select {
	case <-time.After(time.Until(since.Add(d))):
	case <-ctx.Done():
	}
}

// A gateway that is stopped and continued later loses no request, and grants none of the slots that
// others use meanwhile.
func TestStoppedGateways(t *testing.T) {
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	for range rounds {
		for _, what := range []string{"the owner", "another"} {
			f.reset()
			g := f.owner(ctx, t)
			if what == "another" {
				g = f.others(g)[0]
			}
			at := time.Now()
			g.Hang()
			l.goOn(ctx, t, 5, f.Live())
			f.owner(ctx, t)
			l.goOn(ctx, t, 5, f.Live())
			longest, _ := f.gap(at)
			t.Logf("%s stopped: the longest time without a request that began was %v", what, longest.Round(time.Millisecond))
			lastsFor(ctx, pause, at)
			g.Continue()
			f.owner(ctx, t)
			l.goOn(ctx, t, 5, f.Gateways)
			f.reset()
			f.full(ctx, t)
		}
	}
	f.verdict(t, l)
}

// Gateways are replaced one after the other, as by an update of their job.
func TestRollingUpdate(t *testing.T) {
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	for range rounds {
		for _, g := range f.Gateways {
			f.reset()
			at := time.Now()
			if err := g.Drain(ctx); err != nil {
				t.Fatal(err)
			}
			f.owner(ctx, t)
			longest, _ := f.gap(at)
			t.Logf("gateway %d drained: the longest time without a request that began was %v", g.Index, longest.Round(time.Millisecond))
			if err := g.Start(ctx); err != nil {
				t.Fatal(err)
			}
			l.goOn(ctx, t, 5, f.Gateways)
		}
	}
	f.owner(ctx, t)
	f.reset()
	f.full(ctx, t)
	if failed, lost := l.End(); len(failed)+lost > 0 {
		t.Errorf("%d requests were lost: %v", len(failed)+lost, failed)
	}
	f.verdict(t, l)
}

// Consul stops and starts, with its data and without. Nothing changes while the gateways hear each
// other. If the owner ends meanwhile, each of the others serves with its part of the slots, and all
// agree on an owner when Consul is back.
func TestConsulStopsAndStarts(t *testing.T) {
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	for range rounds {
		for _, losesData := range []bool{false, true} {
			owner := f.owner(ctx, t)
			before, err := owner.State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			f.Consul.Kill()
			l.goOn(ctx, t, 20, f.Gateways)
			if again := f.owner(ctx, t); again != owner {
				t.Errorf("gateway %d owns the service without Consul, gateway %d did before", again.Index, owner.Index)
			}
			owner.Kill()
			f.apart(ctx, t, f.Live())
			l.goOn(ctx, t, 10, f.Live())
			if losesData {
				if err := f.Consul.Lose(); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Consul.Start(ctx); err != nil {
				t.Fatal(err)
			}
			now, err := f.owner(ctx, t).State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if now.Epoch <= before.Epoch {
				t.Errorf("epoch %d after %d", now.Epoch, before.Epoch)
			}
			if err := owner.Start(ctx); err != nil {
				t.Fatal(err)
			}
			f.owner(ctx, t)
			l.goOn(ctx, t, 5, f.Gateways)
			f.reset()
			f.full(ctx, t)
		}
	}
	f.verdict(t, l)
}

// apart waits until none of the gateways has an owner.
func (f *Fleet) apart(ctx context.Context, t *testing.T, among []*Gateway) {
	t.Helper()
	err := Await(ctx, "no owner", func() string {
		for _, g := range among {
			if s, err := g.State(ctx); err != nil {
				return err.Error()
			} else if s.Role != "apart" {
				return "one is " + s.Role
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}
