// Package line is the queue of one service, in which goroutines wait for a slot of a replica.
// Package dispatch decides which request is next and where it goes; this package adds the lock, the
// clock and the waiting goroutines.
package line

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"aliquot.example/internal/dispatch"
)

// Endpoint is a replica to which a request was assigned.
type Endpoint struct {
	ID      string
	Address string // host:port
	Class   string
	// Value is the value that Options.Value returned for the class.
	Value any
}

// Options configure a Line.
type Options struct {
	Policy dispatch.Policy
	// Starved is called, without the lock, when a request waits that no known replica can serve. It
	// must not block.
	Starved func()
	// Waits is called in the same way whenever a request has to wait.
	Waits func()
	// Value returns Endpoint.Value for a class. It is called once per class.
	Value func(class string) any
}

// Line is the queue of one service. Its methods may be called by any goroutine.
type Line struct {
	mu        sync.Mutex
	queue     *dispatch.Queue
	series    series
	endpoints map[string]*Endpoint
	values    map[string]any
	timer     *time.Timer
	timerAt   time.Time
	options   Options
	// may says whether slots may be given now; nil for always.
	may func(now time.Time) bool
}

// Pass is the state of one request in the line.
type Pass struct {
	// Endpoint is the replica that serves the request, nil while the request waits.
	Endpoint *Endpoint
	ticket   dispatch.Ticket
	ready    chan struct{}
	evicted  bool
	holder   holder    // notified instead of a goroutine; nil if a goroutine waits
	carried  *carried  // in a Shared
	tokens   int       // tokens that the series counts
	asked    time.Time // when it began to wait for its current slot
	waited   time.Duration
}

// holder is notified, under the lock, when its pass gets a replica or is evicted.
type holder interface {
	decided(p *Pass, now time.Time)
}

// Waited returns how long the request waited for its current slot. A request that was sent ahead
// waits at its replica from then on, which is not included.
func (p *Pass) Waited() time.Duration { return p.waited }

// Refused is the error of a request that the queue refused.
type Refused struct {
	Why   dispatch.Refusal
	After time.Duration // time after which to try again
}

func (r *Refused) Error() string {
	switch r.Why {
	case dispatch.QueueFull:
		return "the queue of the service is full"
	case dispatch.TenantFull:
		return "the tenant has too many requests waiting"
	case dispatch.NoSuchClass:
		return "no replica has the required hardware class"
	}
	return "the request cannot be served before its deadline"
}

// ErrExpired is the error of a request that waited until its Expire time.
var ErrExpired = errors.New("no replica became free in time")

// New returns a line without replicas.
func New(o Options) *Line {
	if o.Starved == nil {
		o.Starved = func() {}
	}
	if o.Waits == nil {
		o.Waits = func() {}
	}
	if o.Value == nil {
		o.Value = func(string) any { return nil }
	}
	l := &Line{queue: dispatch.New(o.Policy), endpoints: map[string]*Endpoint{}, values: map[string]any{}, options: o}
	l.series.start(time.Now())
	return l
}

// Enter waits until the request gets a slot, its Expire time comes or ctx ends. On success the caller
// must call Leave or Again.
func (l *Line) Enter(ctx context.Context, p *Pass, r dispatch.Request) error {
	now := time.Now()
	p.ticket, p.evicted, p.asked = dispatch.Ticket{Request: r, Value: p}, false, now
	l.mu.Lock()
	if why, after := l.queue.Submit(&p.ticket, now); why != dispatch.Accepted {
		l.mu.Unlock()
		return &Refused{why, after}
	}
	l.wait(p, &p.ticket.Request, now)
	l.evict(now)
	return l.await(ctx, p, now)
}

// wait adds a request that begins to wait to the series.
func (l *Line) wait(p *Pass, r *dispatch.Request, now time.Time) {
	p.tokens = expectedTokens(r)
	l.series.queued(now, p.counted())
}

// grow adds the new tokens of an answer to the series.
func (l *Line) grow(p *Pass, r *dispatch.Request, answer int, now time.Time) {
	if r.Whole || l.options.Policy.Mode != dispatch.Tokens {
		return
	}
	d := amount{tokens: r.Prompt + answer - p.tokens}
	p.tokens += d.tokens
	l.series.active(now, p.Endpoint.Class, d)
}

func (p *Pass) counted() amount { return amount{1, p.tokens} }

// evict notifies requests that were evicted for a more urgent one.
func (l *Line) evict(now time.Time) {
	for t := l.queue.Evicted(); t != nil; t = l.queue.Evicted() {
		other := t.Value.(*Pass)
		other.evicted = true
		if other.holder != nil {
			other.holder.decided(other, now)
			continue
		}
		l.series.queued(now, other.counted().negated())
		close(other.ready)
		other.ready = nil
	}
}

// Again gives the slot back and waits for another one, at the request's old place.
func (l *Line) Again(ctx context.Context, p *Pass, verdict dispatch.Verdict, pause time.Duration) error {
	now := time.Now()
	l.mu.Lock()
	if p.Endpoint == nil {
		l.mu.Unlock()
		return errors.New("line: Again without a slot")
	}
	l.series.active(now, p.Endpoint.Class, p.counted().negated())
	p.Endpoint, p.ready, p.asked = nil, nil, now
	l.queue.Retry(&p.ticket, verdict, pause, now)
	l.wait(p, &p.ticket.Request, now)
	return l.await(ctx, p, now)
}

// Leave gives the slot back, and returns how long the request held it. It does nothing for a request
// without a slot.
func (l *Line) Leave(p *Pass, verdict dispatch.Verdict, pause time.Duration) time.Duration {
	now := time.Now()
	l.mu.Lock()
	if p.Endpoint == nil {
		l.mu.Unlock()
		return 0
	}
	woken := l.release(p, verdict, pause, now)
	held := p.ticket.Held(now)
	l.mu.Unlock()
	if woken {
		// Let the woken goroutine run first: its replica is idle, and the caller still has to finish
		// its answer.
		runtime.Gosched()
	}
	return held
}

// Began records the first token of the answer.
func (l *Line) Began(p *Pass) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Endpoint != nil {
		l.queue.Began(&p.ticket, now)
		l.pump(now)
	}
}

// Progress records the number of tokens of the answer so far.
func (l *Line) Progress(p *Pass, tokens int) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Endpoint != nil {
		l.queue.Progress(&p.ticket, tokens, now)
		l.grow(p, &p.ticket.Request, tokens, now)
	}
}

// Settle records the usage that the engine reports for the request; see dispatch.Queue.Settle. Call
// it before Leave.
func (l *Line) Settle(p *Pass, prompt, cached, output int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Endpoint != nil {
		l.queue.Settle(&p.ticket, prompt, cached, output)
	}
}

// release gives the slot back, and reports whether a waiting goroutine was woken.
func (l *Line) release(p *Pass, verdict dispatch.Verdict, pause time.Duration, now time.Time) bool {
	l.series.active(now, p.Endpoint.Class, p.counted().negated())
	p.Endpoint = nil
	l.queue.Finish(&p.ticket, verdict, pause, now)
	return l.pump(now)
}

// await waits for a slot. The caller holds the lock and has queued the ticket. await releases the
// lock.
func (l *Line) await(ctx context.Context, p *Pass, now time.Time) error {
	l.pump(now)
	if p.Endpoint != nil {
		l.mu.Unlock()
		return nil
	}
	ready := l.startWait(p)
	expire := time.NewTimer(p.ticket.Expire.Sub(now))
	defer expire.Stop()
	err := ErrExpired
	select {
	case <-ready:
		if p.evicted {
			return &Refused{dispatch.QueueFull, time.Second}
		}
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-expire.C:
	}
	return l.giveUp(p, err)
}

// startWait reports that a request waits, and returns a channel that is closed when the wait is over.
// The caller holds the lock; startWait releases it.
func (l *Line) startWait(p *Pass) <-chan struct{} {
	ready := make(chan struct{})
	p.ready = ready
	starved := l.queue.Starving()
	l.mu.Unlock()
	if starved {
		l.options.Starved()
	}
	l.options.Waits()
	return ready
}

// giveUp ends the wait of a request, unless it got a slot in the meantime.
func (l *Line) giveUp(p *Pass, err error) error {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.evicted {
		return &Refused{dispatch.QueueFull, time.Second}
	}
	if l.queue.Withdraw(&p.ticket) {
		l.series.queued(now, p.counted().negated())
		// A slow slot may have been kept free because of this request.
		l.pump(now)
		return err
	}
	if err == ErrExpired {
		return nil
	}
	l.release(p, dispatch.Neutral, 0, now)
	return err
}

// pump gives free slots to waiting requests, and reports whether it woke a goroutine.
func (l *Line) pump(now time.Time) (woken bool) {
	if l.may != nil && !l.may(now) {
		return false
	}
	for {
		t := l.queue.Next(now)
		if t == nil {
			break
		}
		p := t.Value.(*Pass)
		r, _ := t.Replica()
		p.Endpoint, p.waited = l.endpoints[r.ID], max(0, now.Sub(p.asked))
		if p.holder != nil {
			p.holder.decided(p, now)
			continue
		}
		l.series.queued(now, p.counted().negated())
		p.tokens = l.startTokens(&t.Request)
		l.series.active(now, r.Class, p.counted())
		if p.ready != nil {
			close(p.ready)
			p.ready = nil
			woken = true
		}
	}
	l.arm(now)
	return woken
}

// arm sets the timer for the time at which the queue has to decide again.
func (l *Line) arm(now time.Time) {
	wake := l.queue.LookAgain()
	if wake.Equal(l.timerAt) {
		return
	}
	l.timerAt = wake
	if wake.IsZero() {
		return // if the timer still fires, it does nothing
	}
	after := max(0, wake.Sub(now))
	if l.timer == nil {
		l.timer = time.AfterFunc(after, l.tick)
		return
	}
	l.timer.Reset(after)
}

func (l *Line) tick() {
	now := time.Now()
	l.mu.Lock()
	l.timerAt = time.Time{}
	l.pump(now)
	l.mu.Unlock()
}
