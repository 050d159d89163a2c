package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/top"
	"aliquot.example/internal/weigh"
)

// pollInterval is the interval at which the demo polls the cluster.
const pollInterval = time.Second

// action is a change of a count, as recorded by Nomad.
type action struct {
	at         time.Time
	job, group string
	from, to   int64
	reason     string
}

// shares are the percentages of a service's splitter, by subset.
type shares map[string]float64

// classes returns the sum of the shares of each class's subsets.
func (s shares) classes() map[string]float64 {
	sums := map[string]float64{}
	for subset, percent := range s {
		class := subset
		if group, err := weigh.ParseGroup(subset); err == nil {
			class = group.Class
		}
		sums[class] += percent
	}
	return sums
}

// replica is one allocation of a service and what its container sees.
type replica struct {
	service, alloc string
	info           hardware.Info
	// pulled reports whether its image was pulled from the registry for it.
	pulled bool
	// err is why it could not be queried; a replica may be stopped before it answers.
	err error
	// closeGPU, if not nil, must be called when the replica has ended.
	closeGPU func() error
}

// watch records what happens in the cluster during the replay.
type watch struct {
	c   *cluster.Cluster
	top top.Cluster

	mu       sync.Mutex
	snapshot top.Snapshot
	// splits are the changes of the splitters, oldest first.
	splits   []split
	actions  []action
	busiest  map[string]top.GPU        // by group, when most of its slices were allocated
	most     map[string]map[string]int // maximum replicas by service and class
	replicas map[string]*replica       // by allocation
	running  int
	desired  int
	problem  error // of the last poll
	busy     int   // percent of the AMD GPU, as last set

	asking sync.WaitGroup
}

type split struct {
	at      time.Time
	service string
	shares  shares
}

func newWatch(c *cluster.Cluster) *watch {
	return &watch{
		c: c, top: top.Cluster{Nomad: c.Nomad, Services: top.Gateways(c.Consul)},
		busiest: map[string]top.GPU{}, most: map[string]map[string]int{}, replicas: map[string]*replica{}, desired: -1,
	}
}

// run polls until ctx ends, and calls each after every poll.
func (w *watch) run(ctx context.Context, each func()) {
	defer w.asking.Wait()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := w.look(ctx)
		w.mu.Lock()
		w.problem = err
		w.mu.Unlock()
		each()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *watch) look(whole context.Context) error {
	ctx, cancel := context.WithTimeout(whole, 5*time.Second)
	defer cancel()
	snapshot, err := w.top.Snapshot(ctx)
	if err != nil {
		return err
	}
	w.keepSnapshot(snapshot)
	if err := w.playLoad(snapshot.Services); err != nil {
		return err
	}
	var desired, running int
	for _, service := range []string{chat, code} {
		if err := w.lookAtSplit(ctx, service); err != nil {
			return err
		}
		status, _, err := w.c.Nomad.Jobs().ScaleStatus(service, (&nomad.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		for name, group := range status.TaskGroups {
			desired, running = desired+group.Desired, running+group.Running
			w.keepActions(service, name, group.Events)
		}
		if err := w.lookAtReplicas(whole, service); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.desired, w.running = desired, running
	return nil
}

func (w *watch) keepSnapshot(s top.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshot = s
	for _, node := range s.Nodes {
		for _, g := range node.GPUs {
			if old, ok := w.busiest[g.Group]; !ok || g.Used() > old.Used() {
				w.busiest[g.Group] = g
			}
		}
	}
	for _, service := range s.Services {
		most := w.most[service.Name]
		if most == nil {
			most = map[string]int{}
			w.most[service.Name] = most
		}
		for _, class := range service.Classes {
			most[class.Name] = max(most[class.Name], class.Replicas)
		}
	}
}

// lookAtSplit reads a service's splitter, which does not exist while the service has no replica.
func (w *watch) lookAtSplit(ctx context.Context, service string) error {
	entry, _, err := w.c.Consul.ConfigEntries().Get(consul.ServiceSplitter, service,
		(&consul.QueryOptions{}).WithContext(ctx))
	var status consul.StatusError
	found := shares{}
	switch splitter, ok := entry.(*consul.ServiceSplitterConfigEntry); {
	case errors.As(err, &status) && status.Code == http.StatusNotFound:
	case err != nil:
		return err
	case ok:
		for _, s := range splitter.Splits {
			found[s.ServiceSubset] += float64(s.Weight)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.sharesAt(service, time.Now()); !maps.Equal(last, found) {
		w.splits = append(w.splits, split{time.Now(), service, found})
	}
	return nil
}

// sharesAt returns the shares of a service's splitter at a time. The caller must hold w.mu.
func (w *watch) sharesAt(service string, at time.Time) shares {
	for _, s := range slices.Backward(w.splits) {
		if s.service == service && !s.at.After(at) {
			return s.shares
		}
	}
	return shares{}
}

func (w *watch) keepActions(job, group string, events []nomad.ScalingEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range events {
		if event.Count == nil || *event.Count == event.PreviousCount {
			continue
		}
		a := action{time.Unix(0, int64(event.Time)), job, group, event.PreviousCount, *event.Count, event.Message}
		if !slices.Contains(w.actions, a) {
			w.actions = append(w.actions, a)
		}
	}
	slices.SortFunc(w.actions, func(a, b action) int { return a.at.Compare(b.at) })
}

// lookAtReplicas asks every new replica what its container sees.
func (w *watch) lookAtReplicas(ctx context.Context, service string) error {
	stubs, _, err := w.c.Nomad.Jobs().Allocations(service, false, (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	running := map[string]bool{}
	for _, stub := range stubs {
		if running[stub.ID] = stub.ClientStatus == nomad.AllocClientStatusRunning; running[stub.ID] &&
			w.replicas[stub.ID] == nil {
			w.inspect(ctx, service, stub.ID)
		}
	}
	for _, r := range w.replicas {
		if r.service == service && !running[r.alloc] && r.closeGPU != nil {
			err = errors.Join(err, r.closeGPU())
			r.closeGPU = nil
		}
	}
	return err
}

// inspect asks a new replica what it sees. The caller must hold w.mu.
func (w *watch) inspect(ctx context.Context, service, alloc string) {
	r := &replica{service: service, alloc: alloc}
	w.replicas[alloc] = r
	w.asking.Go(func() {
		asked := w.ask(ctx, service, alloc)
		w.mu.Lock()
		defer w.mu.Unlock()
		*r = asked
	})
}

func (w *watch) ask(ctx context.Context, service, id string) replica {
	r := replica{service: service, alloc: id}
	var alloc *nomad.Allocation
	if alloc, _, r.err = w.c.Nomad.Allocations().Info(id, (&nomad.QueryOptions{}).WithContext(ctx)); r.err != nil {
		return r
	}
	events := cluster.Events(alloc.TaskStates)
	// The first text is the docker driver's, the second ours when it pulls while it fetches a
	// model.
	r.pulled = strings.Contains(events, "Downloading image") || strings.Contains(events, "is pulled")
	if r.info, r.err = w.c.Info(ctx, alloc); r.err == nil && r.info.Grant != nil && r.info.Grant.Vendor == gpu.AMD {
		// There is no kernel driver that sees the task open its GPU.
		r.closeGPU, r.err = w.c.OpenGPU(ctx, alloc, modelMiB<<20, r.info.Grant.Units)
	}
	return r
}

// idle returns why the services are not yet at zero replicas, or "".
func (w *watch) idle() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.problem != nil:
		return w.problem.Error()
	case w.desired != 0 || w.running != 0:
		return cmp.Or(w.lastReason(), "nothing was decided yet")
	}
	return ""
}

func (w *watch) lastReason() string {
	if len(w.actions) == 0 {
		return ""
	}
	return "the last decision was: " + w.actions[len(w.actions)-1].String()
}
