package line

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// differing runs a test on three gateways, in the order in which they come to own the
// service, each with the options for its place in that order.
func differing(t *testing.T, classes []string, options func(at int) Options, test func(t *testing.T, w *world, all []*node)) {
	synctest.Test(t, func(t *testing.T) {
		order := ownership.Order("app", []ownership.ID{"10.0.0.0:7070", "10.0.0.1:7070", "10.0.0.2:7070"})
		all := make([]*node, len(order))
		w := newWorld(t, 1, 3, len(classes), 2, func(w *world) {
			w.classes = classes
			w.options = func(n *node) Options {
				at := slices.Index(order, n.id)
				all[at] = n
				return options(at)
			}
		})
		w.run(5*time.Second, 0, nil, 1)
		if w.owner() != all[0] {
			t.Fatalf("gateway %d is to own the service", all[0].i)
		}
		test(t, w, all)
		for _, n := range w.nodes {
			n.crash()
		}
		synctest.Wait()
	})
}

// rules are those that require one class each.
func rules(classes ...string) []dispatch.Placement {
	out := []dispatch.Placement{{}}
	for _, c := range classes {
		out = append(out, dispatch.Placement{Require: []string{c}})
	}
	return out
}

// on is the class of hardware that serves a request, or its state.
func (p *pass) on() string {
	if state := p.state(); state != "active" {
		return state
	}
	return p.Endpoint.Class
}

// Gateways whose rules differ, as in the middle of an update, send each request to the
// hardware that the rule of its own gateway allows, before and after the owner ends.
func TestRulesThatDiffer(t *testing.T) {
	options := func(at int) Options {
		if at == 0 {
			return Options{Policy: dispatch.Policy{Placements: rules("h100")}}
		}
		return Options{Policy: dispatch.Policy{Placements: rules("t4", "h100")}}
	}
	differing(t, []string{"h100", "t4"}, options, func(t *testing.T, w *world, all []*node) {
		h100, t4 := w.begin(all[1], dispatch.Request{Placement: 2}), w.begin(all[1], dispatch.Request{Placement: 1})
		w.begin(all[1], dispatch.Request{Placement: 1})
		third := w.begin(all[1], dispatch.Request{Placement: 1}) // for one of the two slots
		if h100.on() != "h100" || t4.on() != "t4" || third.on() != "waits" {
			t.Errorf("by the rules of another gateway: %s, want h100; %s, want t4; %s, want to wait", h100.on(), t4.on(), third.on())
		}
		w.kill(all[0])
		w.run(5*time.Second, 0, nil, 1)
		t4.leave(dispatch.Served)
		w.run(time.Second, 0, nil, 1)
		if h100.on() != "h100" || third.on() != "t4" {
			t.Errorf("by the rules of the next owner: %s, want h100; %s, want t4", h100.on(), third.on())
		}
	})
}

// A rule that the owner does not have gets a replica of its class started, where one can be,
// and else a refusal at once.
func TestARuleOfAnotherGatewayStartsItsClass(t *testing.T) {
	refused := (&Refused{Why: dispatch.NoSuchClass}).Error()
	for starts, want := range map[bool]string{true: "waits", false: refused} {
		var starved [3]atomic.Int64
		options := func(at int) Options {
			o := Options{Policy: dispatch.Policy{AwaitClass: starts}, Starved: func() { starved[at].Add(1) }}
			if at > 0 {
				o.Policy.Placements = rules("t4")
			}
			return o
		}
		differing(t, []string{"h100"}, options, func(t *testing.T, w *world, all []*node) {
			got := w.begin(all[1], dispatch.Request{Placement: 1}).state()
			if got != want || (starved[0].Load() > 0) != starts || all[0].shared.StarvesFor("t4") != starts {
				t.Errorf("can be started: %t; %s, want %s; the owner asked %d times", starts, got, want, starved[0].Load())
			}
		})
	}
}

// More rules of others than an owner takes are refused at once, also when a request of one is
// tried again: it goes to no hardware that its rule forbids, and does not wait in vain.
func TestTooManyRulesOfOthersAreRefused(t *testing.T) {
	options := func(at int) Options {
		o := Options{Policy: dispatch.Policy{AwaitClass: true}}
		if at == 2 {
			o.Policy.Placements = rules("t4")
		}
		return o
	}
	differing(t, []string{"h100", "t4"}, options, func(t *testing.T, w *world, all []*node) {
		refused := (&Refused{Why: dispatch.NoSuchClass}).Error()
		served := w.begin(all[2], dispatch.Request{Placement: 1})
		if served.on() != "t4" {
			t.Fatal(served.on())
		}
		next := all[1].shared
		next.mu.Lock()
		for i, ok := 0, true; ok; i++ {
			_, ok = next.queue.PlacementOf(rules(fmt.Sprint(i))[1])
		}
		next.mu.Unlock()
		w.kill(all[0])
		w.run(5*time.Second, 0, nil, 1)
		if w.owner() != all[1] || served.on() != "t4" {
			t.Fatal("the next one does not own the service")
		}
		if got := w.begin(all[2], dispatch.Request{Placement: 1}).state(); got != refused {
			t.Errorf("a new request: %s, want %s", got, refused)
		}
		<-served.done
		go func() {
			served.done <- all[2].shared.Again(context.Background(), &served.Pass, dispatch.Unreachable, 0)
		}()
		w.run(time.Second, 0, nil, 1)
		if got := served.state(); got != refused {
			t.Errorf("one that is tried again: %s, want %s", got, refused)
		}
	})
}
