package gateways

import (
	"testing"
	"time"
)

// Networks break between gateways, between gateways and Consul, and both. All gateways
// go on, within the slots; when the network is whole again all agree.
func TestPartitions(t *testing.T) {
	if !isolated(t) {
		return
	}
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	consul := len(f.Gateways)
	for range rounds {
		for _, p := range []struct {
			what string
			cuts func(owner int, others []int) [][2]int
			ends func(owner *Gateway, others []*Gateway)
		}{
			{"a member from the owner", func(owner int, others []int) [][2]int { return [][2]int{{owner, others[0]}} },
				func(owner *Gateway, others []*Gateway) { f.apart(ctx, t, others[:1]) }},
			{"the owner from the others", func(owner int, others []int) [][2]int { return [][2]int{{owner, others[0]}, {owner, others[1]}} },
				func(owner *Gateway, others []*Gateway) {
					if _, err := f.settled(ctx, others); err != nil {
						t.Fatal(err)
					}
					f.apart(ctx, t, []*Gateway{owner})
				}},
			{"all from Consul", func(int, []int) [][2]int { return [][2]int{{0, consul}, {1, consul}, {2, consul}} },
				func(owner *Gateway, others []*Gateway) {
					if again := f.owner(ctx, t); again != owner {
						t.Errorf("gateway %d owns the service without Consul, gateway %d did before", again.Index, owner.Index)
					}
				}},
			{"the owner from all, and from Consul", func(owner int, others []int) [][2]int {
				return [][2]int{{owner, others[0]}, {owner, others[1]}, {owner, consul}}
			}, func(owner *Gateway, others []*Gateway) {
				if _, err := f.settled(ctx, others); err != nil {
					t.Fatal(err)
				}
				f.apart(ctx, t, []*Gateway{owner})
			}},
			{"all from each other and from Consul", func(int, []int) [][2]int {
				return [][2]int{{0, 1}, {1, 2}, {0, 2}, {0, consul}, {1, consul}, {2, consul}}
			}, func(*Gateway, []*Gateway) { f.apart(ctx, t, f.Gateways) }},
		} {
			owner := f.owner(ctx, t)
			others := f.others(owner)
			cuts := p.cuts(owner.Index, []int{others[0].Index, others[1].Index})
			f.reset()
			at := time.Now()
			f.cut(t, cuts, f.options.Hosts.Cut)
			p.ends(owner, others)
			l.goOn(ctx, t, 10, f.Gateways)
			longest, _ := f.gap(at)
			t.Logf("%s: the longest time without a request that began was %v", p.what, longest.Round(time.Millisecond))
			f.cut(t, cuts, f.options.Hosts.Join)
			f.owner(ctx, t)
			f.reset()
			f.full(ctx, t)
			l.goOn(ctx, t, 5, f.Gateways)
		}
	}
	f.verdict(t, l)
}

func (f *Fleet) cut(t *testing.T, pairs [][2]int, do func(i, j int) error) {
	t.Helper()
	for _, pair := range pairs {
		if err := do(pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
}
