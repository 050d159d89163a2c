package watch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/top"
	"aliquot.example/ui/view"
)

const (
	// blockingWait is the wait time of blocking queries.
	blockingWait = 30 * time.Second
	// pause is the shortest time between two reads of a list.
	pause = 500 * time.Millisecond
	// pauseEach is the additional pause per allocation of a list, so that reading long lists does not
	// use up the time of a server or of this program.
	pauseEach = 150 * time.Microsecond
	// perPage is the number of allocations per request: a response with all of them would be in
	// memory several times. maxPages limits the number of requests.
	perPage, maxPages = 500, 400
	// atOnce is the number of simultaneous requests to nodes or gateways.
	atOnce = 16
)

// follow runs blocking queries until ctx ends. ask returns the new index.
func (w *Watch) follow(ctx context.Context, name string, ask func(context.Context, uint64) (uint64, error)) {
	index := uint64(0)
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, blockingWait+answerTime)
		next := uint64(0)
		err := turn(func() (err error) {
			next, err = ask(asking, index)
			return err
		})
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.source(name, err)
		if index = next; err != nil || next == 0 {
			index = 0 // do not block: notice at once that the server is back
		}
		wait(ctx, pause)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lists returns the options for listing nodes and allocations.
func lists(ctx context.Context, index uint64) *nomad.QueryOptions {
	hold := blockingWait
	if index == 0 {
		hold = 0
	}
	return (&nomad.QueryOptions{
		Namespace: nomad.AllNamespacesNamespace, WaitIndex: index, WaitTime: hold,
		Params: map[string]string{"resources": "true"},
	}).WithContext(ctx)
}

func (w *Watch) watchNodes(ctx context.Context) {
	w.follow(ctx, "Nomad", func(ctx context.Context, index uint64) (uint64, error) {
		nodes, meta, err := w.o.Nomad.Nodes().List(lists(ctx, index))
		if err != nil {
			return 0, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		first, before := w.nodes == nil, w.nodes
		understood := false
		defer func() {
			if !understood {
				w.nodes = before
			}
		}()
		w.nodes = slices.DeleteFunc(nodes, func(n *nomad.NodeListStub) bool {
			return n == nil || n.NodeResources == nil || len(top.GPUs(n.NodeResources, nil, nil)) == 0
		})
		if w.nodes == nil {
			w.nodes = []*nomad.NodeListStub{}
		}
		w.draw()
		var seen []view.Seen
		w.health, seen = w.health.Next(w.drawn, time.Now(), first)
		w.remember(seen)
		w.draw()
		understood = true
		w.signal()
		return meta.LastIndex, nil
	})
}

func (w *Watch) watchAllocs(ctx context.Context) {
	w.follow(ctx, "Nomad's allocations", func(ctx context.Context, index uint64) (uint64, error) {
		allocs, next, err := w.listAllocs(ctx, index)
		if err != nil {
			return 0, err
		}
		w.takeAllocs(allocs)
		wait(ctx, time.Duration(len(allocs))*pauseEach)
		return next, nil
	})
}

// listAllocs waits for a change after index, and lists all allocations page by page. It returns the
// index of the first page, so that changes during the listing are read next time.
func (w *Watch) listAllocs(ctx context.Context, index uint64) (all []alloc, next uint64, err error) {
	token := ""
	for page := range maxPages {
		q := lists(ctx, index)
		q.Params["task_states"] = "true"
		q.PerPage, q.NextToken = perPage, token
		allocs, meta, err := w.o.Nomad.Allocations().List(q)
		if err != nil {
			return nil, 0, err
		}
		if page == 0 {
			next = meta.LastIndex
		}
		for _, stub := range allocs {
			if stub != nil {
				all = append(all, allocOf(stub))
			}
		}
		if index, token = 0, meta.NextToken; token == "" {
			return all, next, nil
		}
	}
	return nil, 0, fmt.Errorf("there are more than %d allocations", maxPages*perPage)
}

// takeAllocs stores a list of allocations. It keeps the old list if the new one causes a panic.
func (w *Watch) takeAllocs(allocs []alloc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, understood := w.allocs, false
	defer func() {
		if !understood {
			w.allocs = before
		}
	}()
	w.allocs = allocs
	w.draw()
	understood = true
	w.signal()
}

// remember adds changes of health, and drops old ones. The caller holds w.mu.
func (w *Watch) remember(seen []view.Seen) {
	w.seen = append(w.seen, seen...)
	old := time.Now().Add(-keptEvents)
	w.seen = slices.DeleteFunc(w.seen, func(s view.Seen) bool { return s.At.Before(old) })
}

// draw joins nodes, allocations and statistics. The caller holds w.mu.
func (w *Watch) draw() {
	on := map[string][]*nomad.Allocation{}
	for _, a := range w.allocs {
		on[a.NodeID] = append(on[a.NodeID], a.Allocation)
	}
	nodes := make([]view.Node, 0, len(w.nodes))
	class := map[string]string{} // by device instance
	for _, stub := range w.nodes {
		n := view.Node{Node: top.Node{ID: stub.ID, Name: stub.Name, Status: stub.Status}}
		if stub.SchedulingEligibility != nomad.NodeSchedulingEligible {
			n.Status += ", " + stub.SchedulingEligibility
		}
		n.GPUs = top.GPUs(stub.NodeResources, on[stub.ID], w.stats[stub.ID])
		slices.SortFunc(n.GPUs, func(a, b top.GPU) int {
			return cmp.Or(compareText(a.Vendor, b.Vendor), compareText(a.Group, b.Group), compareText(a.ID, b.ID))
		})
		free, _ := account.Of(&nomad.Node{NodeResources: stub.NodeResources, ReservedResources: stub.ReservedResources},
			on[stub.ID])
		for _, g := range free.Groups {
			n.Total += float64(g.Total) * g.Unit
		}
		if stub.Status == nomad.NodeStatusReady {
			n.Free, n.Stranded = free.Free(), w.demand.Stranded(free)
		}
		n.Unhealthy = w.health.Of(n)
		for _, g := range n.GPUs {
			for _, s := range g.Slices {
				class[s.ID] = g.Class
			}
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b view.Node) int {
		return cmp.Or(compareText(a.Name, b.Name), compareText(a.ID, b.ID))
	})
	w.drawn = nodes
	w.shown = shownOf(w.allocs, class)
}

// readStats reads the device statistics of every ready node.
func (w *Watch) readStats(ctx context.Context) {
	w.mu.Lock()
	var ready []string
	for _, n := range w.nodes {
		if n.Status == nomad.NodeStatusReady {
			ready = append(ready, n.ID)
		}
	}
	w.mu.Unlock()
	found := make([]map[string]*nomad.DeviceStats, len(ready))
	sideBySide(len(ready), func(i int) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		// Ask through the servers: this program may not be able to reach the nodes.
		var host nomad.HostStats
		if _, err := w.o.Nomad.Raw().Query("/v1/client/stats?node_id="+ready[i], &host,
			(&nomad.QueryOptions{}).WithContext(ctx)); err != nil {
			return // the use of its GPUs is then unknown
		}
		found[i] = map[string]*nomad.DeviceStats{}
		for _, group := range host.DeviceStats {
			for id, stats := range group.InstanceStats {
				found[i][id] = stats
			}
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.stats)
	for i, id := range ready {
		if found[i] != nil {
			w.stats[id] = found[i]
		}
	}
	w.draw()
	w.signal()
}

// turn calls f and converts a panic to an error: an invalid response, such as a list that contains
// null, must not end the program or the other readers.
func turn(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("cannot understand the response: %v", v)
		}
	}()
	return f()
}

// sideBySide calls f for 0 to n-1, atOnce at a time. It panics if one of the calls panics.
func sideBySide(n int, f func(int)) {
	var all sync.WaitGroup
	turns, fell := make(chan struct{}, atOnce), make(chan any, n)
	for i := range n {
		turns <- struct{}{}
		all.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					fell <- v
				}
				<-turns
			}()
			f(i)
		})
	}
	all.Wait()
	select {
	case v := <-fell:
		panic(v)
	default:
	}
}

func compareText(a, b string) int { return strings.Compare(a, b) }

// plain returns an error as one line of at most about 300 bytes.
func plain(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + " …"
	}
	return text
}
