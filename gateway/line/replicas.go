package line

import (
	"time"

	"aliquot.example/internal/dispatch"
)

// Replica is a replica with its address, from discovery.
type Replica struct {
	dispatch.Replica
	Address string
}

// Set sets the replicas of the service. Other replicas finish their requests and get no new ones.
func (l *Line) Set(replicas []Replica) {
	if l.replace(replicas) {
		l.options.Starved()
	}
}

// replace sets the replicas, and reports whether requests wait that no replica can serve.
func (l *Line) replace(replicas []Replica) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.put(replicas, time.Now())
}

// put is like replace. The caller holds the lock.
func (l *Line) put(replicas []Replica, now time.Time) bool {
	keep := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		keep[r.ID] = true
		if e := l.endpoints[r.ID]; e == nil || e.Address != r.Address || e.Class != r.Class {
			l.endpoints[r.ID] = &Endpoint{ID: r.ID, Address: r.Address, Class: r.Class, Value: l.value(r.Class)}
		}
		l.queue.Put(r.Replica)
	}
	for id := range l.endpoints {
		if !keep[id] {
			l.queue.Drop(id)
			delete(l.endpoints, id)
		}
	}
	l.pump(now)
	return l.queue.Starving()
}

func (l *Line) value(class string) any {
	v, ok := l.values[class]
	if !ok {
		v = l.options.Value(class)
		l.values[class] = v
	}
	return v
}

// Adjust puts the limits of another policy in force; see dispatch.Queue.Adjust.
func (l *Line) Adjust(p dispatch.Policy) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Adjust(p)
	l.pump(now)
}

// State is the state of a line at one moment.
type State struct {
	// Decides is false if another gateway is the owner. Queued and Active always cover only this
	// gateway; for the state of the replicas, ask the owner.
	Decides bool
	Queued  int
	Active  map[string]int // by class
	// QueuedTokens and ActiveTokens are the tokens of those requests; see PointTokens.
	QueuedTokens int
	ActiveTokens map[string]int
	Replicas     []dispatch.State
	// Waits are the waiting requests by tenant and priority, in no order; empty if another gateway is
	// the owner.
	Waits []Wait
}

// Wait is the number of requests of a tenant that wait at a priority.
type Wait struct {
	Tenant             string
	Priority, Requests int
}

func waitsOf(q *dispatch.Queue) (out []Wait) {
	q.Waits(func(tenant string, priority, requests int) { out = append(out, Wait{tenant, priority, requests}) })
	return out
}

// State returns a copy of the present state.
func (l *Line) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{Decides: true, Queued: l.queue.Waiting(), Active: map[string]int{}, ActiveTokens: map[string]int{},
		Replicas: l.queue.Replicas(), Waits: waitsOf(l.queue)}
	s.QueuedTokens = int(l.series.now[queuedTokensColumn])
	for class, at := range l.series.classes {
		s.ActiveTokens[class] = int(l.series.now[at+1])
	}
	for _, r := range s.Replicas {
		s.Active[r.Class] += r.Active
	}
	return s
}

// Starving reports whether a request waits that no known replica can serve.
func (l *Line) Starving() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.Starving()
}

// StarvesFor reports whether a replica of the class would serve such a request.
func (l *Line) StarvesFor(class string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.StarvesFor(class)
}

// Decides reports whether this gateway decides for the service, so that its learned rates cover all
// of the service's requests.
func (l *Line) Decides() bool { return true }

// Whole reports whether Concurrency covers all gateways instead of only this one.
func (l *Line) Whole() bool { return false }

// Rates returns the learned rates by class.
func (l *Line) Rates() map[string]dispatch.Rate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.Rates()
}

// Working returns the number of waiting requests, and the number of requests in progress by
// replica, of all gateways for which this one decides.
func (l *Line) Working() (queued int, active map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	active = map[string]int{}
	for _, r := range l.queue.Replicas() {
		active[r.ID] = r.Active
	}
	return l.queue.Waiting(), active
}

// ToWake returns the best replica to wake for the waiting requests; see dispatch.Queue.ToWake.
func (l *Line) ToWake(takes time.Duration) (id string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.ToWake(takes)
}

// Seed sets rates that were learned earlier.
func (l *Line) Seed(rates map[string]dispatch.Rate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Seed(rates)
}

// Observe records the state that the engine of a replica reports.
func (l *Line) Observe(id string, e dispatch.EngineState) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Observe(id, e, now)
	l.pump(now)
}
