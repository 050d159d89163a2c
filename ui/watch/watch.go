// Package watch reads Nomad, Consul and the gateways continuously, and stores the last hour. It
// changes nothing in them.
package watch

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/api"
	"aliquot.example/internal/pack"
	"aliquot.example/ui/view"
)

const (
	// pollInterval is the interval at which gateways are asked. Nomad and Consul have blocking queries.
	pollInterval = time.Second
	// answerTime is the timeout of requests, in addition to the wait time of blocking queries.
	answerTime = 4 * time.Second
	// minPause is the shortest time between two reads of the gateways, however often browsers open
	// and close views.
	minPause = 100 * time.Millisecond
	// keptEvents is how long events are stored.
	keptEvents = time.Hour
)

// Options configure a Watch.
type Options struct {
	Nomad *nomad.Client
	// Consul may be nil. The Watch then asks only the gateways in Gateways.
	Consul *consul.Client
	// Gateways are addresses of admin listeners, in addition to those in Consul.
	Gateways []string
	Log      *slog.Logger
}

// Watch holds the known state of the cluster.
type Watch struct {
	o    Options
	http *http.Client

	mu       sync.Mutex
	began    time.Time
	changed  chan struct{}
	nodes    []*nomad.NodeListStub
	allocs   []alloc
	stats    map[string]map[string]*nomad.DeviceStats // by node
	demand   pack.Demand
	drawn    []view.Node
	shown    []view.Alloc
	health   view.Health
	services []view.Service
	gateways map[string]string // admin address by ID
	policies []view.Policy
	changes  map[change]view.Change
	splits   map[string]map[string]float64
	seen     []view.Seen
	sources  map[string]view.Source
	memory   map[string]*view.Memory
	served   map[string]map[string]int // requests of the last minute, by service and class
	requests api.Requests
	drivers  view.Drivers
	outlooks map[string]*outlook    // by service, only those that a browser shows
	next     map[string][]view.Next // by service, only those that a browser shows
	curves   map[string]curves      // by service with an objective, only those that a browser shows
	// followed, viewed and judged count the streams for a service, for a view, and for the outlook
	// of a service.
	followed, viewed, judged map[string]int
	// opened is closed when a browser opens another view or service.
	opened chan struct{}
	// since is when the first of the present streams for a service began.
	since map[string]time.Time
}

// change is the identity of a scaling action.
type change struct {
	namespace, job, group string
	at                    int64
}

// New returns a Watch without any data.
func New(o Options) *Watch {
	return &Watch{
		o: o, began: time.Now(), changed: make(chan struct{}),
		opened: make(chan struct{}),
		http:   &http.Client{Timeout: answerTime, Transport: Bounded(http.DefaultTransport, MaxAnswer)},
		stats:  map[string]map[string]*nomad.DeviceStats{}, demand: pack.Start(), gateways: map[string]string{},
		changes: map[change]view.Change{}, splits: map[string]map[string]float64{}, sources: map[string]view.Source{},
		memory: map[string]*view.Memory{}, followed: map[string]int{}, served: map[string]map[string]int{},
		viewed: map[string]int{}, judged: map[string]int{}, since: map[string]time.Time{},
		outlooks: map[string]*outlook{}, next: map[string][]view.Next{}, curves: map[string]curves{},
	}
}

// Run reads the cluster until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { w.watchNodes(ctx) })
	all.Go(func() { w.watchAllocs(ctx) })
	all.Go(func() { w.every(ctx, 5*time.Second, w.readStats) })
	all.Go(func() { w.everyOrLooked(ctx, pollInterval, w.readGateways) })
	all.Go(func() { w.everyOrLooked(ctx, pollInterval, w.readRequests) })
	all.Go(func() { w.every(ctx, pollInterval, w.readChanges) })
	all.Go(func() { w.every(ctx, 5*time.Second, w.readPolicies) })
	all.Go(func() { w.everyOrLooked(ctx, 5*time.Second, w.readCurves) })
	if w.o.Consul != nil {
		all.Go(func() { w.watchGateways(ctx) })
		all.Go(func() { w.watchDrivers(ctx) })
		all.Go(func() { w.everyOrLooked(ctx, 2*time.Second, w.readSplits) })
		all.Go(func() { w.every(ctx, time.Minute, w.readDemand) })
	}
}

// every calls f at once and then at every interval d, until ctx ends.
func (w *Watch) every(ctx context.Context, d time.Duration, f func(context.Context)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.once(ctx, f)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// once calls a reader that reports failed requests itself, and logs a panic in it.
func (w *Watch) once(ctx context.Context, f func(context.Context)) {
	err := turn(func() error {
		f(ctx)
		return nil
	})
	if err != nil && w.o.Log != nil {
		w.o.Log.Warn("ignored an invalid response", "error", err)
	}
}

// everyOrLooked is like every, and also calls f at once when a browser opens another view or service.
func (w *Watch) everyOrLooked(ctx context.Context, d time.Duration, f func(context.Context)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.mu.Lock()
		looked := w.opened
		w.mu.Unlock()
		w.once(ctx, f)
		wait(ctx, minPause)
		select {
		case <-tick.C:
		case <-looked:
		case <-ctx.Done():
		}
	}
}

// Facts returns the present state, and a channel that is closed at the next change.
func (w *Watch) Facts() (view.Facts, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := view.Facts{
		At: time.Now(), Began: w.began, Nodes: w.drawn, Allocs: w.shown, Services: w.services, Policies: w.policies,
		Requests: w.requests, Drivers: w.drivers, Next: maps.Clone(w.next),
		Splits: maps.Clone(w.splits), Served: maps.Clone(w.served), Seen: slices.Clone(w.seen),
		Sources: slices.Collect(maps.Values(w.sources)), Changes: slices.Collect(maps.Values(w.changes)),
	}
	slices.SortFunc(f.Sources, func(a, b view.Source) int { return compareText(a.Name, b.Name) })
	slices.SortFunc(f.Changes, func(a, b view.Change) int { return b.At.Compare(a.At) })
	return f, w.changed
}

// Series returns the stored seconds of a service after a second.
func (w *Watch) Series(service string, after int64) view.Series {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.memory[service]
	if m == nil {
		m = &view.Memory{}
	}
	now := time.Now()
	after = min(after, now.Unix()) // after is a browser's value
	last := m.Last()
	until := max(last, now.Unix()-gapSeconds)
	if last < now.Unix()-gapSeconds && now.Sub(w.since[service]) < gapSeconds*time.Second {
		until = after // the gateways' last hour has not been read yet
	}
	return m.Since(after, until)
}

// gapSeconds is the number of seconds after which a second without data becomes a gap.
const gapSeconds = 5

// Follow makes the Watch read the data for a view and the series of a service, until release is
// called. Both may be "".
func (w *Watch) Follow(name, service string) (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.viewed[name]++
	if name == view.ScalingView {
		w.judged[service]++
	}
	if w.followed[service]++; w.followed[service] == 1 {
		w.since[service] = time.Now()
	}
	if w.followed[service] == 1 || w.viewed[name] == 1 || w.judged[service] == 1 {
		close(w.opened)
		w.opened = make(chan struct{})
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		leave(w.viewed, name)
		if name == view.ScalingView {
			leave(w.judged, service)
		}
		if leave(w.followed, service); w.followed[service] == 0 {
			delete(w.since, service)
		}
	})
}

// leave decrements a count, and deletes it at 0.
func leave(counts map[string]int, key string) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// signal signals a change. The caller holds w.mu.
func (w *Watch) signal() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// source records whether a source answers, and logs when it stops.
func (w *Watch) source(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	problem := ""
	if err != nil {
		problem = plain(err)
	}
	old, known := w.sources[name]
	if known && (old.Problem == "") == (problem == "") {
		old.Problem = problem
		w.sources[name] = old
		return
	}
	w.sources[name] = view.Source{Name: name, Problem: problem, Since: time.Now()}
	if problem != "" && w.o.Log != nil {
		w.o.Log.Warn("no answer", "from", name, "error", problem)
	}
	w.signal()
}
