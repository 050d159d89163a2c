package gateways

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/ownership"
)

// partition is a broken network between gateways and Consul.
type partition struct {
	what string
	cuts func(owner, a, b, consul int) [][]Cut
	// then is the expected outcome: the owner stays, another gateway takes over, or the gateways
	// that are cut off have no owner.
	then  outcome
	apart func(owner, a, b *Gateway) []*Gateway
}

type outcome int

const (
	stays outcome = iota // the owner remains for all that are not cut off
	moves                // another gateway becomes the owner
	parts                // there is no owner
)

func nobody(_, _, _ *Gateway) []*Gateway       { return nil }
func member(_, a, _ *Gateway) []*Gateway       { return []*Gateway{a} }
func theOwner(owner, _, _ *Gateway) []*Gateway { return []*Gateway{owner} }
func all(owner, a, b *Gateway) []*Gateway      { return []*Gateway{owner, a, b} }

// partitions cut off a member or the owner from other gateways, from Consul, and from both, in both
// directions and in one. With one direction cut, one end still hears the other until the kernel has
// sent as much as it may without an acknowledgement.
var partitions = []partition{
	{"a member and the owner", func(owner, a, _, _ int) [][]Cut { return [][]Cut{Both(owner, a)} }, stays, member},
	{"a member does not hear the owner", func(owner, a, _, _ int) [][]Cut { return [][]Cut{{{a, owner}}} }, stays, member},
	{"the owner does not hear a member", func(owner, a, _, _ int) [][]Cut { return [][]Cut{{{owner, a}}} }, stays, member},
	{"two members", func(_, a, b, _ int) [][]Cut { return [][]Cut{Both(a, b)} }, stays, nobody},
	{"a member does not hear another", func(_, a, b, _ int) [][]Cut { return [][]Cut{{{a, b}}} }, stays, nobody},
	{"the owner and Consul", func(owner, _, _, consul int) [][]Cut { return [][]Cut{Both(owner, consul)} }, stays, nobody},
	{"the owner does not hear Consul", func(owner, _, _, consul int) [][]Cut { return [][]Cut{{{owner, consul}}} }, stays, nobody},
	{"Consul does not hear the owner", func(owner, _, _, consul int) [][]Cut { return [][]Cut{{{consul, owner}}} }, stays, nobody},
	{"a member and Consul", func(_, a, _, consul int) [][]Cut { return [][]Cut{Both(a, consul)} }, stays, nobody},
	{"all and Consul", func(owner, a, b, consul int) [][]Cut {
		return [][]Cut{Both(owner, consul), Both(a, consul), Both(b, consul)}
	}, stays, nobody},
	{"a member, the owner and Consul", func(owner, a, _, consul int) [][]Cut {
		return [][]Cut{Both(owner, a), Both(a, consul)}
	}, stays, member},
	{"a member hears neither the owner nor Consul", func(owner, a, _, consul int) [][]Cut {
		return [][]Cut{{{a, owner}, {a, consul}}}
	}, stays, member},
	{"the owner and all others", func(owner, a, b, _ int) [][]Cut { return [][]Cut{Both(owner, a), Both(owner, b)} }, moves, theOwner},
	{"the owner hears no gateway", func(owner, a, b, _ int) [][]Cut { return [][]Cut{{{owner, a}, {owner, b}}} }, moves, theOwner},
	{"no gateway hears the owner", func(owner, a, b, _ int) [][]Cut { return [][]Cut{{{a, owner}, {b, owner}}} }, moves, theOwner},
	{"the owner, all others and Consul", func(owner, a, b, consul int) [][]Cut {
		return [][]Cut{Both(owner, a), Both(owner, b), Both(owner, consul)}
	}, moves, theOwner},
	{"the owner hears neither gateways nor Consul", func(owner, a, b, consul int) [][]Cut {
		return [][]Cut{{{owner, a}, {owner, b}, {owner, consul}}}
	}, moves, theOwner},
	{"all gateways and Consul", func(owner, a, b, consul int) [][]Cut {
		return [][]Cut{Both(owner, a), Both(a, b), Both(owner, b), Both(owner, consul), Both(a, consul), Both(b, consul)}
	}, parts, all},
}

// Networks break between gateways, between gateways and Consul, and both, in both directions and in
// one. All gateways continue within the slots. When the network is repaired all agree again.
func TestPartitions(t *testing.T) {
	if !isolated(t) {
		return
	}
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	for range rounds {
		f.lasting(ctx, t)
		for _, p := range partitions {
			f.breaks(ctx, t, l, p)
		}
	}
	f.verdict(t, l)
}

// cutFor returns how long a network is cut: longer than it takes until connections end.
func cutFor() time.Duration {
	if rounds > 1 {
		return pause
	}
	return 1800 * time.Millisecond
}

func (f *Fleet) breaks(ctx context.Context, t *testing.T, l *Load, p partition) {
	t.Helper()
	owner := f.owner(ctx, t)
	others, server := f.others(owner), len(f.Gateways)
	a, b := others[0], others[1]
	cuts := slices.Concat(p.cuts(owner.Index, a.Index, b.Index, server)...)
	apart := p.apart(owner, a, b)
	f.reset()
	at := time.Now()
	f.cut(t, cuts, f.options.Hosts.Break)
	f.apart(ctx, t, apart)
	for _, g := range f.Gateways {
		missing := slices.Contains(cuts, Cut{server, g.Index}) || slices.Contains(cuts, Cut{g.Index, server})
		f.passing(ctx, t, g, !missing)
	}
	if p.then != parts {
		now, err := f.settled(ctx, without(f.Gateways, apart))
		if err != nil {
			t.Fatalf("cut: %s: %v", p.what, err)
		}
		if (now == owner) != (p.then == stays) {
			t.Errorf("cut: %s: gateway %d owns the service, gateway %d did before", p.what, now.Index, owner.Index)
		}
	}
	l.goOn(ctx, t, 10, f.Gateways)
	if took := time.Since(at); took >= ownership.SlotHold {
		t.Errorf("cut: %s: some gateway was not served for %v: slots were kept for another one that did not use them", p.what, took)
	}
	longest, _ := f.gap(at)
	t.Logf("cut: %s: nothing began for %v at most", p.what, longest.Round(time.Millisecond))
	lastsFor(ctx, cutFor(), at)
	f.cut(t, cuts, f.options.Hosts.Mend)
	f.owner(ctx, t)
	for _, g := range f.Gateways {
		f.passing(ctx, t, g, true)
	}
	f.reset()
	f.full(ctx, t)
	l.goOn(ctx, t, 5, f.Gateways)
}

// passing waits until Consul's check of a gateway is passing, or critical.
func (f *Fleet) passing(ctx context.Context, t *testing.T, g *Gateway, want bool) {
	t.Helper()
	err := Await(ctx, fmt.Sprintf("gateway %d in Consul", g.Index), func() string {
		well, _, err := f.Consul.Client.Health().Service("aliquot-gateway", "", true, nil)
		if err != nil {
			return err.Error()
		}
		is := slices.ContainsFunc(well, func(e *consul.ServiceEntry) bool { return e.Service.Meta["peers"] == g.Peers })
		if is != want {
			return fmt.Sprintf("it passes its check: %t", is)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lasting waits until the gateway that is first in the hash order owns the service, because then
// the owner does not change by itself.
func (f *Fleet) lasting(ctx context.Context, t *testing.T) {
	t.Helper()
	var ids []ownership.ID
	for _, g := range f.Gateways {
		ids = append(ids, ownership.ID(g.Peers))
	}
	first := string(ownership.Order(Service, ids)[0])
	err := Await(ctx, "the first in the hash owns the service", func() string {
		if owner := f.owner(ctx, t); owner.Peers != first {
			return owner.Peers + " does, " + first + " should"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *Fleet) cut(t *testing.T, cuts []Cut, do func(Cut) error) {
	t.Helper()
	for _, c := range cuts {
		if err := do(c); err != nil {
			t.Fatal(err)
		}
	}
}

func without(all, some []*Gateway) (out []*Gateway) {
	for _, g := range all {
		if !slices.Contains(some, g) {
			out = append(out, g)
		}
	}
	return out
}
