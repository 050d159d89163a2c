// Package router writes Consul config entries for every service that opts in, so that traffic
// follows the healthy instances and the speed of their hardware. It watches Consul and writes
// entries; internal/weigh decides what they contain.
package router

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/weigh"
	"aliquot.example/router/config"
)

// Registered is an instance in Consul's catalog.
type Registered struct {
	ID      string
	Meta    map[string]string
	Passing bool
}

// Stored is a config entry in Consul. Service is the service that it serves, "" if the router did
// not write it.
type Stored struct {
	weigh.Observed
	Service string
}

// Catalog reads services from Consul. Each call waits until something has changed since index, for
// at most wait, and returns the new index.
type Catalog interface {
	Services(ctx context.Context, index uint64, wait time.Duration) ([]string, uint64, error)
	Instances(ctx context.Context, service string, index uint64, wait time.Duration) ([]Registered, uint64, error)
	Rates(ctx context.Context, index uint64, wait time.Duration) (map[string][][]byte, uint64, error)
	Profiles(ctx context.Context, index uint64, wait time.Duration) (profilekv.Listed, error)
}

// Entries reads and writes config entries. Put and Delete are check-and-set operations: they return
// false if the entry's index differs from index.
type Entries interface {
	List(ctx context.Context, known func(weigh.Key) (Stored, bool)) (map[weigh.Key]Stored, error)
	Get(ctx context.Context, key weigh.Key) (Stored, bool, error)
	Put(ctx context.Context, e weigh.Entry, service string, index uint64) (bool, error)
	Delete(ctx context.Context, key weigh.Key, index uint64) (bool, error)
}

// Election calls lead whenever this router becomes the leader; see control.Election. It calls
// trouble with the error that keeps it from taking part, or with nil once it takes part.
type Election interface {
	Run(ctx context.Context, lead func(ctx context.Context, valid func() bool), trouble func(error))
}

// Router is one router. Create it with New.
type Router struct {
	catalog  Catalog
	entries  Entries
	election Election
	log      *slog.Logger
	metrics  *metrics
	queue    *queue
	polls    *semaphore.Weighted // limits blocking queries
	maxPolls int

	mu       sync.Mutex
	config   *config.Config
	ctx      context.Context // of watches
	services map[string]*service
	opted    map[string]bool            // services that opt in by meta, as of the last Services call
	rates    map[string][]learned.Rates // by service, one per gateway
	notes    map[string][]string        // errors in rates, by service
	profiles profilekv.Listed
	cache    map[weigh.Key]Stored
	// learned has the stamp of every entry that was read or written on its own, so that an audit's
	// list, which may be older, does not overwrite it.
	learned map[weigh.Key]uint64
	stamp   uint64
	leading bool
	valid   func() bool
	// failures holds the last error of each watch, nil after a success.
	failures map[string]error
}

// trouble records the last result of a watch.
func (r *Router) trouble(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[what] = err
}

// reserved is the number of connections for requests other than watches of services.
const reserved = 16

// workers is the number of services that are reconciled at the same time.
const workers = 16

// New creates a router from a valid configuration. Run starts it.
func New(c *config.Config, catalog Catalog, entries Entries, election Election, log *slog.Logger) *Router {
	polls := c.Consul.MaxConnections - reserved
	r := &Router{
		catalog: catalog, entries: entries, election: election, log: log, config: c,
		queue: newQueue(), polls: semaphore.NewWeighted(int64(polls)), maxPolls: polls,
		services: map[string]*service{}, opted: map[string]bool{},
		rates: map[string][]learned.Rates{}, notes: map[string][]string{},
		learned: map[weigh.Key]uint64{}, failures: map[string]error{"services": errNotYet, "election": errNotYet},
	}
	r.metrics = newMetrics(r)
	return r
}

// Run watches Consul and, while this router leads, writes entries. It returns when ctx ends.
func (r *Router) Run(ctx context.Context) {
	var wg sync.WaitGroup
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	r.track()
	wg.Go(func() { r.watchServices(ctx) })
	wg.Go(func() { r.watchRates(ctx) })
	wg.Go(func() { r.watchProfiles(ctx) })
	wg.Go(func() { r.election.Run(ctx, r.lead, func(err error) { r.trouble("election", err) }) })
	wg.Wait()
}

// Reload replaces the configuration. The addresses, the owner mark, the leader settings and the
// prefix of the rates change only with a restart.
func (r *Router) Reload(c *config.Config) {
	r.mu.Lock()
	old := r.config
	c.Admin, c.Consul, c.Leader, c.Owner, c.Rates = old.Admin, old.Consul, old.Leader, old.Owner, old.Rates
	r.config = c
	r.mu.Unlock()
	r.track()
	r.queueAll()
}

// lead runs while this router is the leader.
func (r *Router) lead(ctx context.Context, valid func() bool) {
	for !r.audit(ctx) {
		if !Pause(ctx, time.Second) {
			return
		}
	}
	r.mu.Lock()
	r.leading, r.valid = true, valid
	r.mu.Unlock()
	r.metrics.leader.Set(1)
	defer func() {
		r.mu.Lock()
		r.leading, r.cache, r.valid = false, nil, nil
		r.mu.Unlock()
		r.metrics.leader.Set(0)
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	r.queueAll()
	for Pause(ctx, r.Config().Audit) {
		r.audit(ctx)
	}
}

// audit reads all entries and queues the services whose entries others have changed. It reports
// whether the entries could be read.
func (r *Router) audit(ctx context.Context) bool {
	began := r.generation()
	list, err := r.entries.List(ctx, r.cached)
	if err != nil {
		if ctx.Err() == nil {
			r.metrics.errors.WithLabelValues("list").Inc()
			r.log.Warn("cannot read config entries", "error", hint(err))
		}
		return false
	}
	touched, all := r.compare(list, began)
	r.track()
	for name := range touched {
		r.queue.add(name)
	}
	if all {
		r.queueAll()
	}
	return true
}

// compare updates the cache from a list of all entries that was read at generation began. It
// returns the services whose entries others have changed, and whether a change affects every
// service.
func (r *Router) compare(list map[weigh.Key]Stored, began uint64) (touched map[string]bool, all bool) {
	touched = map[string]bool{}
	r.mu.Lock()
	defer r.mu.Unlock()
	inherited := r.cache[weigh.Inherited()].Entry.Protocol
	if r.cache == nil {
		r.cache = map[weigh.Key]Stored{}
	}
	for key, s := range list {
		old, ok := r.cache[key]
		if r.learned[key] > began || ok && old.Index == s.Index {
			continue
		}
		r.cache[key] = s
		if !ok || old.Index != 0 || !sameEntry(old, s) { // index 0: our own write, whose index was unknown
			touch(touched, key, s)
		}
	}
	for key, s := range r.cache {
		if _, there := list[key]; !there && r.learned[key] <= began {
			touch(touched, key, s)
			delete(r.cache, key)
		}
	}
	for key, at := range r.learned {
		if at <= began {
			delete(r.learned, key)
		}
	}
	return touched, inherited != r.cache[weigh.Inherited()].Entry.Protocol
}

func sameEntry(a, b Stored) bool {
	return a.Ours == b.Ours && a.Exact == b.Exact && a.Service == b.Service && weigh.Same(a.Entry, b.Entry)
}

// touch adds the services that an entry may affect.
func touch(touched map[string]bool, key weigh.Key, s Stored) {
	touched[weigh.RuleOwner(key.Name)] = true
	touched[key.Name] = true
	if s.Service != "" {
		touched[s.Service] = true
	}
}

func (r *Router) generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stamp
}

// learn caches an entry that was just read or written; nil means that it does not exist.
func (r *Router) learn(key weigh.Key, s *Stored) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache == nil {
		return // no longer leading
	}
	r.stamp++
	r.learned[key] = r.stamp
	if s == nil {
		delete(r.cache, key)
	} else {
		r.cache[key] = *s
	}
}

func (r *Router) cached(key weigh.Key) (Stored, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.cache[key]
	return s, ok
}

// Config returns the configuration in force.
func (r *Router) Config() *config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

func (r *Router) queueAll() {
	r.mu.Lock()
	names := make([]string, 0, len(r.services))
	for name := range r.services {
		names = append(names, name)
	}
	r.mu.Unlock()
	for _, name := range names {
		r.queue.add(name)
	}
}

// Pause waits for d. It returns false if ctx ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
