// Package simulate replays a trace of requests against a scaling policy in simulated time. Replicas
// start slowly and serve a fixed number of concurrent requests from one queue, or batch them like
// engines of language models, behind the dispatch of Aliquot's gateway. A scaler decides the counts at
// its interval.
package simulate

import (
	"container/heap"
	"time"

	"aliquot.example/internal/learned"
)

// Step is the interval between two samples of demand.
const Step = time.Second

// Class is one kind of replica.
type Class struct {
	Name string
	// Slots is the number of concurrent requests of a replica.
	Slots int
	// Speed divides a request's service time.
	Speed float64
	// Cost is the cost of one replica per hour, in any unit.
	Cost float64
	// ColdStart is the time from the decision to start a replica until it serves.
	ColdStart time.Duration
	// Initial is the number of replicas that are ready at the start of the trace.
	Initial int
	// Curve is the timing of an engine that batches, nil for replicas with Slots. Either all
	// classes have a curve or none has.
	Curve *learned.Curve
}

// Scaler decides the desired replicas by class.
type Scaler interface {
	// Interval is the time between two decisions.
	Interval() time.Duration
	Decide(Observation) []int
}

// Config is the environment of a replay.
type Config struct {
	Classes []Class
	// Deployments makes every change of counts a Nomad deployment: further changes wait until all
	// replicas have been ready for MinHealthy.
	Deployments bool
	MinHealthy  time.Duration
	// Objective determines Observation.Met and Missed. The gateway knows its TTFT and TPOT.
	Objective Objective
	// LeastRequests puts a proxy in front of replicas that batch, instead of Aliquot's gateway. It sends
	// each request at once to the replica with the fewest requests.
	LeastRequests bool
}

// Sample is the state at the end of one Step.
type Sample struct {
	At             time.Duration
	Demand         float64
	Queued         int
	Desired, Ready []int
}

// Result is the result of one replay.
type Result struct {
	// Waits holds the time from arrival until a replica got the request, for each request in the
	// order of the trace. A replica that batches may let it wait further.
	Waits []time.Duration
	// Firsts and Ends are the times of the first and the last token, for engines that batch. They
	// are 0 if the token never came.
	Firsts, Ends []time.Duration
	// ReplicaTime is the time from the decision to start until the stop, summed by class.
	ReplicaTime []time.Duration
	Timeline    []Sample
	// Reversals counts how often the total changed from growing to shrinking or back.
	Reversals int
	// Length is the time from the start of the trace to the end of the replay.
	Length time.Duration
}

type replica struct {
	id       int
	class    int
	started  time.Duration
	ready    bool
	stopping bool
	busy     int
	batch    *batch // nil for a replica with slots
}

type eventKind int

const (
	eventReady eventKind = iota
	eventDone
	eventTurn
	eventLook
	eventDecide
	eventStep
)

type event struct {
	at      time.Duration
	kind    eventKind
	order   int
	replica *replica
	version int // of the batch
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

type engine struct {
	cfg      Config
	trace    []Request
	scaler   Scaler
	now      time.Duration
	events   eventHeap
	order    int
	replicas []*replica // oldest first
	next     int        // index of the next arrival
	active   int
	// dispatcher holds the waiting requests, queued of them, with queuedTokens tokens. look is the
	// time of the next eventLook that counts.
	dispatcher   dispatcher
	queued       int
	queuedTokens int
	look         time.Duration
	sent         []bool // by request
	started      int    // replicas started so far
	// arrived, met and missed belong to the current Step; the slices hold those of past Steps.
	arrived, met, missed             float64
	arrivedSeries, metSeries, misses []float64
	// area is the integral of queued plus active requests over the current Step, and areas that of
	// the active requests by class.
	area      float64
	areas     []float64
	served    [][]float64
	areaSince time.Duration
	demand    []float64
	desired   []int
	direction int
	lockUntil time.Duration
	result    Result
}

// Run replays the trace until every request is served, but at most until one day after the last
// arrival, because the scaler may keep no replica. The wait of a request that is still queued then
// is the time that it has waited.
func Run(cfg Config, trace []Request, scaler Scaler) Result {
	e := &engine{cfg: cfg, trace: trace, scaler: scaler, desired: make([]int, len(cfg.Classes))}
	e.areas, e.served = make([]float64, len(cfg.Classes)), make([][]float64, len(cfg.Classes))
	e.result.Waits = make([]time.Duration, len(trace))
	e.result.Firsts, e.result.Ends = make([]time.Duration, len(trace)), make([]time.Duration, len(trace))
	e.result.ReplicaTime = make([]time.Duration, len(cfg.Classes))
	e.dispatcher, e.sent = newDispatcher(cfg, trace), make([]bool, len(trace))
	for c, class := range cfg.Classes {
		for range class.Initial {
			e.serve(e.start(c))
		}
		e.desired[c] = class.Initial
	}
	e.push(event{at: Step, kind: eventStep})
	e.push(event{at: scaler.Interval(), kind: eventDecide})
	end := trace[len(trace)-1].At
	for e.next < len(trace) || e.active > 0 || e.queued > 0 {
		if e.now > end+24*time.Hour {
			break
		}
		e.step()
	}
	for i, sent := range e.sent[:e.next] {
		if !sent {
			e.result.Waits[i] = e.now - trace[i].At
		}
	}
	for _, r := range e.replicas {
		e.result.ReplicaTime[r.class] += e.now - r.started
	}
	e.result.Length = e.now
	return e.result
}

func (e *engine) arrive() {
	q := e.trace[e.next]
	e.dispatcher.arrive(e.next, q, e.now)
	e.queued++
	e.queuedTokens += q.tokens()
	e.arrived += float64(q.tokens())
	e.next++
}

// serve makes a replica ready.
func (e *engine) serve(r *replica) {
	r.ready = true
	if !r.stopping {
		e.dispatcher.put(r)
	}
}

// start adds a replica.
func (e *engine) start(class int) *replica {
	r := &replica{id: e.started, class: class, started: e.now}
	e.started++
	if curve := e.cfg.Classes[class].Curve; curve != nil {
		r.batch = &batch{curve: *curve, at: e.now}
	}
	e.replicas = append(e.replicas, r)
	return r
}

func (e *engine) push(ev event) {
	e.order++
	ev.order = e.order
	heap.Push(&e.events, ev)
}

func (e *engine) advance(to time.Duration) {
	seconds := (to - e.areaSince).Seconds()
	e.area += float64(e.queued+e.active) * seconds
	for _, r := range e.replicas {
		e.areas[r.class] += float64(r.busy) * seconds
	}
	e.areaSince, e.now = to, to
}

func (e *engine) step() {
	if e.next < len(e.trace) && e.trace[e.next].At <= e.events[0].at {
		e.advance(max(e.trace[e.next].At, e.now))
		e.arrive()
		e.dispatch()
		return
	}
	ev := heap.Pop(&e.events).(event)
	e.advance(ev.at)
	switch ev.kind {
	case eventReady:
		e.serve(ev.replica)
		e.dispatch()
	case eventLook:
		if e.look == ev.at {
			e.look = 0
			e.dispatch()
		}
	case eventDone:
		ev.replica.busy--
		e.active--
		if ev.replica.stopping && ev.replica.busy == 0 {
			e.remove(ev.replica)
		}
		e.dispatch()
	case eventTurn:
		e.turned(ev)
	case eventStep:
		e.sample()
		e.push(event{at: e.now + Step, kind: eventStep})
	case eventDecide:
		e.decide()
		e.push(event{at: e.now + e.scaler.Interval(), kind: eventDecide})
	}
}

// lookInterval bounds how often waiting requests are examined while nothing happens. The gateway
// itself does it more often.
const lookInterval = 50 * time.Millisecond

// dispatch sends waiting requests as far as the dispatcher wants.
func (e *engine) dispatch() {
	if e.queued > 0 {
		e.report()
	}
	for e.queued > 0 {
		i, to := e.dispatcher.next(e.now)
		if to == nil {
			break
		}
		e.send(i, to)
	}
	if at := e.dispatcher.again(); at > 0 && e.queued > 0 && (e.look == 0 || at < e.look-lookInterval) {
		e.look = max(at, e.now+lookInterval)
		e.push(event{at: e.look, kind: eventLook})
	}
}

// never is longer than any replay: a trace has at most 1e8 s, and the replay ends one day later.
const never = 1e9 * time.Second

// lasting converts nanoseconds to a duration, at most never, so that times do not overflow.
func lasting(nanoseconds float64) time.Duration {
	return time.Duration(min(nanoseconds, float64(never)))
}

// report tells the dispatcher how far the responses of the replicas are.
func (e *engine) report() {
	for _, r := range e.replicas {
		if r.batch != nil && r.ready && !r.stopping {
			r.batch.advance(e.now)
			e.dispatcher.progress(r.batch, e.now)
		}
	}
}

// send gives a request to a replica.
func (e *engine) send(i int, to *replica) {
	q := e.trace[i]
	e.result.Waits[i], e.sent[i] = e.now-q.At, true
	e.queued--
	e.queuedTokens -= q.tokens()
	to.busy++
	e.active++
	if to.batch != nil {
		to.batch.add(e.now, i, q)
		e.plan(to)
		return
	}
	service := lasting(float64(q.Service) / e.cfg.Classes[to.class].Speed)
	e.push(event{at: e.now + service, kind: eventDone, replica: to})
}

// ended removes a finished request from a replica that batches.
func (e *engine) ended(i int, r *replica) {
	r.busy--
	e.active--
	e.result.Ends[i] = e.now
	if e.cfg.Objective.met(e.trace[i], e.result.Firsts[i], e.now) {
		e.met++
	} else {
		e.missed++
	}
}

func (e *engine) ready() []int {
	out := make([]int, len(e.cfg.Classes))
	for _, r := range e.replicas {
		if r.ready && !r.stopping {
			out[r.class]++
		}
	}
	return out
}

func (e *engine) decide() {
	want := e.scaler.Decide(e.observe())
	if e.cfg.Deployments && e.now < e.lockUntil {
		return
	}
	before, after := 0, 0
	for c := range e.desired {
		before += e.desired[c]
		after += want[c]
		e.resize(c, want[c])
	}
	if before == after {
		return
	}
	direction := 1
	if after < before {
		direction = -1
	}
	if e.direction != 0 && direction != e.direction {
		e.result.Reversals++
	}
	e.direction = direction
}

func (e *engine) resize(c, want int) {
	for ; e.desired[c] < want; e.desired[c]++ {
		r := e.start(c)
		readyAt := e.now + e.cfg.Classes[c].ColdStart
		e.push(event{at: readyAt, kind: eventReady, replica: r})
		e.lockUntil = max(e.lockUntil, readyAt+e.cfg.MinHealthy)
	}
	for ; e.desired[c] > want; e.desired[c]-- {
		e.stopOne(c)
	}
}

// stopOne stops the newest replica, preferring one that is still starting. A busy replica finishes
// its requests first.
func (e *engine) stopOne(c int) {
	var victim *replica
	for _, r := range e.replicas {
		if r.class == c && !r.stopping && (victim == nil || !r.ready || victim.ready) {
			victim = r
		}
	}
	victim.stopping = true
	if victim.ready {
		e.dispatcher.drop(victim)
	}
	if victim.busy == 0 {
		e.remove(victim)
	}
}

func (e *engine) remove(gone *replica) {
	e.result.ReplicaTime[gone.class] += e.now - gone.started
	for i, r := range e.replicas {
		if r == gone {
			e.replicas = append(e.replicas[:i], e.replicas[i+1:]...)
			return
		}
	}
}
