// Package router keeps Consul's config entries of every service that opted in to
// what its healthy instances and their hardware can deliver. It watches, decides
// by internal/weigh, and writes; it holds no policy of its own.
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

// Registered is an instance as the catalog has it.
type Registered struct {
	ID      string
	Meta    map[string]string
	Passing bool
}

// Stored is a config entry as Consul has it, with the service that it serves
// where it is one of the router's.
type Stored struct {
	weigh.Observed
	Service string
}

// Catalog is what the router reads of services. Each call waits until something
// has changed since index, at most wait, and returns the new index.
type Catalog interface {
	Services(ctx context.Context, index uint64, wait time.Duration) ([]string, uint64, error)
	Instances(ctx context.Context, service string, index uint64, wait time.Duration) ([]Registered, uint64, error)
	Rates(ctx context.Context, index uint64, wait time.Duration) (map[string][][]byte, uint64, error)
	Profiles(ctx context.Context, index uint64, wait time.Duration) (profilekv.Listed, error)
}

// Entries is where config entries are. Put and Delete are check-and-set: false
// means that the entry is no longer at index.
type Entries interface {
	List(ctx context.Context, known func(weigh.Key) (Stored, bool)) (map[weigh.Key]Stored, error)
	Get(ctx context.Context, key weigh.Key) (Stored, bool, error)
	Put(ctx context.Context, e weigh.Entry, service string, index uint64) (bool, error)
	Delete(ctx context.Context, key weigh.Key, index uint64) (bool, error)
}

// Election calls lead whenever this router is the leader, see control.Election, and
// trouble with what keeps it from taking part, nil when nothing does.
type Election interface {
	Run(ctx context.Context, lead func(ctx context.Context, valid func() bool), trouble func(error))
}

// Router is one router. Make it with New.
type Router struct {
	catalog  Catalog
	entries  Entries
	election Election
	log      *slog.Logger
	metrics  *metrics
	queue    *queue
	polls    *semaphore.Weighted // bounds requests that wait
	maxPolls int

	mu       sync.Mutex
	config   *config.Config
	ctx      context.Context // of watches
	services map[string]*service
	opted    map[string]bool            // by meta, as Services last said
	rates    map[string][]learned.Rates // by service, of each gateway
	notes    map[string][]string        // what is wrong with rates, by service
	profiles profilekv.Listed
	cache    map[weigh.Key]Stored
	// learned stamps what was read or written singly, so that an audit's list, which
	// may be older, does not overwrite it.
	learned map[weigh.Key]uint64
	stamp   uint64
	leading bool
	valid   func() bool
	// failures holds what does not work now, by watch; nil for one that has worked.
	failures map[string]error
}

// trouble notes whether a watch works.
func (r *Router) trouble(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[what] = err
}

// reserved connections are for requests other than watches of services.
const reserved = 16

// workers is how many services are reconciled at the same time.
const workers = 16

// New makes a router of a checked configuration; Run starts it.
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

// Run watches and, while leading, writes, until ctx ends.
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

// Reload replaces the configuration. Addresses, the owner mark and the leader's
// key keep their value until a restart.
func (r *Router) Reload(c *config.Config) {
	r.mu.Lock()
	old := r.config
	c.Admin, c.Consul, c.Leader, c.Owner, c.Rates = old.Admin, old.Consul, old.Leader, old.Owner, old.Rates
	r.config = c
	r.mu.Unlock()
	r.track()
	r.queueAll()
}

// lead is one time as leader.
func (r *Router) lead(ctx context.Context, valid func() bool) {
	for !r.audit(ctx) {
		if !pause(ctx, time.Second) {
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
	for pause(ctx, r.Config().Audit) {
		r.audit(ctx)
	}
}

// audit reads all entries, takes note of what others changed and looks at those
// services again.
func (r *Router) audit(ctx context.Context) bool {
	began := r.generation()
	list, err := r.entries.List(ctx, r.cached)
	if err != nil {
		if ctx.Err() == nil {
			r.metrics.errors.WithLabelValues("list").Inc()
			r.log.Warn("config entries could not be read", "error", hint(err))
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

// compare takes a list of all entries, read when the generation was began, into the cache.
// It returns the services whose entries others changed, and whether a change concerns
// every service.
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
		if !ok || old.Index != 0 || !sameEntry(old, s) { // 0: of our own write only the index was missing
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

// touch notes the services that an entry may concern.
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

// learn keeps what was just read or written of one entry; nil when there is none.
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

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
