package apm

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/query"
)

// slices answers a query for slices or nodes with one value, the present one.
func (p *Plugin) slices(
	ctx context.Context, client *nomad.Client, text string, q query.Query,
) (sdk.TimestampedMetrics, error) {
	nodes, err := account.Cluster(ctx, client)
	if err != nil {
		return nil, guard.Plain(err)
	}
	waiting, err := account.Wait(ctx, client)
	if err != nil {
		return nil, guard.Plain(err)
	}
	now := time.Now()
	value, err := p.answer(text, q, supplyOf(q, nodes, waiting, now))
	if err != nil {
		return nil, fmt.Errorf("query %q: %w", text, err)
	}
	return sdk.TimestampedMetrics{{Timestamp: now, Value: float64(value)}}, nil
}

func supplyOf(q query.Query, nodes []account.Node, waiting []account.Waiting, now time.Time) account.Supply {
	kind := account.Kind{Class: q.Class, Pool: q.Group.Pool, NodeClass: q.Group.NodeClass,
		Datacenter: q.Group.Datacenter}
	var earlier []account.Earlier
	for _, e := range q.Group.After {
		earlier = append(earlier, account.Earlier(e))
	}
	return kind.Of(nodes, waiting, earlier, q.Group.Keep, now)
}

func (p *Plugin) answer(text string, q query.Query, s account.Supply) (int, error) {
	if len(s.Others) > 0 {
		return 0, fmt.Errorf("no node that the query selects has GPUs of class %q; they have class %q: "+
			"check class, pool, node_class and datacenter in the query", q.Class, strings.Join(s.Others, ", "))
	}
	switch q.Metric {
	case query.Placed:
		return s.Placed, nil
	case query.Free:
		return s.Free, nil
	case query.Blocked:
		return s.Blocked(), nil
	}
	n, err := needOf(q, s)
	if err != nil {
		return 0, err
	}
	if p.needs.Changed(text, n) {
		p.log.Info("needed nodes", "query", text, "nodes", n.Nodes(),
			"with_work", n.Kept, "for_waiting_work", n.Waiting, "for_standby", n.Standby)
		if n.Unfit > 0 {
			p.log.Warn("an empty node has no room for some of the pending work or for a standby replica",
				"query", text, "tasks", n.Unfit)
		}
	}
	return n.Nodes(), nil
}

// needOf returns how many nodes the group of a query needs.
func needOf(q query.Query, s account.Supply) (pack.Need, error) {
	var standby []pack.Work
	if r := q.Group.Standby; r.Replicas > 0 {
		standby = []pack.Work{{Ask: pack.Ask{Instances: r.Slices, Requests: 1, Of: r.Of}, Count: r.Replicas}}
	}
	fresh, known := newNodeCapacity(q.Group, s.Fresh)
	if !known && len(s.Waiting)+len(standby) > 0 {
		return pack.Need{}, fmt.Errorf("Nomad has no node with GPUs of class %q that shows what a new node "+
			"offers: set it in the query, for example gpus=8 slices=20", q.Class)
	}
	return pack.NeedFor(s.Standing, fresh, s.Waiting, standby), nil
}

// newNodeCapacity returns the capacity of a new node: the GPUs that the query names, otherwise those of the
// newest node. If there is no such node, CPU and memory are unbounded.
func newNodeCapacity(g query.Group, newest *pack.Node) (fresh pack.Node, known bool) {
	fresh = pack.Node{CPU: math.MaxInt, MemoryMiB: math.MaxInt}
	if newest != nil {
		fresh = *newest
	}
	if g.GPUs == 0 {
		return fresh, newest != nil
	}
	fresh.Groups = nil
	if g.Slices == 1 {
		fresh.Groups = []pack.Group{{Free: g.GPUs, Total: g.GPUs, Unit: 1}}
		return fresh, true
	}
	for range g.GPUs {
		fresh.Groups = append(fresh.Groups, pack.Group{Free: g.Slices, Total: g.Slices, Unit: 1 / float64(g.Slices)})
	}
	return fresh, true
}
