package line

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"runtime"
	"time"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// Shared is the line of a service that several gateways serve. One of them, the owner,
// decides for all; this gateway asks it for the slots of the requests that it carries,
// or is the owner itself. While no owner is known it decides by its part of the slots.
//
// The lock is the Line's. The Line's queue holds the requests for which this gateway
// decides at the moment: none, its own, or those of all gateways.
type Shared struct {
	*Line
	name  string
	self  ownership.ID
	owned *ownership.Service
	send  func(to ownership.ID, r talk.Record)

	seats  map[uint64]*seat // the requests that this gateway carries
	next   uint64
	queued amount
	active map[string]*held // of them, by replica
	books  map[ownership.ID]*book
	view   ownership.View
	all    []Replica
	kept   map[string]int // slots in use when the owner was lost
	// split says that since the owner was lost some gateway was not heard, which may have
	// come to own the service without a report of kept.
	split     bool
	lastOwner ownership.ID // that was followed
	looked    time.Time    // when this process last looked about
	// detached says that nobody looks any more; see Detach.
	detached bool
	salt     [2]uint64      // of the hashes of prompts
	phase    phase          // since then
	among    []ownership.ID // the gateways that were known since then
	// reports numbers the reports of this gateway: what an owner decided by an older one
	// is void.
	reports uint64
	// claims numbers those that this gateway sent as an owner; claim is the number of the
	// one that it follows.
	claims, claim uint64
	applied       applied
	// charges are those of the owner that was heard last; tallied when this gateway
	// counted its own.
	charges []dispatch.Charge
	tallied time.Time
	config  uint64 // of the policy in force
}

// held is how many requests a gateway has on a replica.
type held struct {
	class  string
	amount amount
}

// seat is a request that this gateway carries, in a Shared.
type seat struct {
	of      *Shared
	id      uint64
	pass    *Pass
	inner   Pass // its place in the queue, while this gateway decides
	queued  bool // inner is in the queue or holds a slot of it
	request dispatch.Request
	arrived time.Time
	asked   time.Time // when it began to wait for its current slot
	started time.Time
	err     error

	began, settled         bool
	tokens                 int
	prompt, cached, output int
	marked                 time.Time
}

// NewShared returns a line without replicas and without an owner. send passes a record
// on to another gateway, in the order of the calls; it must not block.
func NewShared(o Options, name string, self ownership.ID, send func(to ownership.ID, r talk.Record)) *Shared {
	now := time.Now()
	s := &Shared{
		Line: New(o), name: name, self: self, owned: ownership.New(name, self, now), send: send,
		seats: map[uint64]*seat{}, active: map[string]*held{}, books: map[ownership.ID]*book{}, kept: map[string]int{},
	}
	s.looked, s.config = now, fingerprint(o.Policy)
	var random [16]byte
	rand.Read(random[:])
	s.salt = [2]uint64{binary.LittleEndian.Uint64(random[:]), binary.LittleEndian.Uint64(random[8:])}
	s.may = s.mayGrant
	return s
}

// Salt is that of the hashes of prompts, by which the owner finds equal ones that come
// to different gateways. It is the owner's, which is as random as the first one's.
func (s *Shared) Salt() [2]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.salt
}

// mayGrant reports whether the queue may give slots: by the owner's lease, or within
// the slots that are this gateway's while there is no owner. A process that was stopped
// gives none until it has looked about.
func (s *Shared) mayGrant(now time.Time) bool {
	if !s.detached && now.Sub(s.looked) >= ownership.Lease {
		return false
	}
	switch role, _, _ := s.owned.Role(); role {
	case ownership.Owner:
		return s.owned.May(now)
	case ownership.Gathering:
		return false
	}
	return true
}

// decides reports whether requests are in this gateway's own queue.
func (s *Shared) decides() bool {
	role, _, _ := s.owned.Role()
	return role != ownership.Member
}

// Enter is that of Line.
func (s *Shared) Enter(ctx context.Context, p *Pass, r dispatch.Request) error {
	now := time.Now()
	*p = Pass{}
	t := &seat{of: s, pass: p, request: r, arrived: now, asked: now}
	p.seat = t
	s.mu.Lock()
	if refused := s.place(t, now); refused != nil {
		s.mu.Unlock()
		return refused
	}
	s.next++
	t.id = s.next
	s.seats[t.id] = t
	s.wait(t, now)
	if !s.decides() {
		s.ask(t, talk.Enter)
	}
	s.evict(now)
	return s.stand(ctx, t, now)
}

// place puts a new request into the queue, where this gateway decides.
func (s *Shared) place(t *seat, now time.Time) error {
	if !s.decides() {
		return nil
	}
	t.inner = Pass{holder: t, ticket: dispatch.Ticket{Request: t.request, Value: &t.inner}}
	if why, after := s.queue.Submit(&t.inner.ticket, now); why != dispatch.Accepted {
		return &Refused{why, after}
	}
	t.queued = true
	return nil
}

// ask sends a request to the owner, if another gateway is it.
func (s *Shared) ask(t *seat, kind talk.Kind) {
	owner, known := s.owned.Owner()
	if !known || owner == s.self {
		return
	}
	r := t.record(kind)
	s.send(owner, r)
}

// record describes a request to the owner.
func (t *seat) record(kind talk.Kind) talk.Record {
	_, epoch, _ := t.of.owned.Role()
	r := talk.Record{Kind: kind, Service: t.of.name, Epoch: epoch, ID: t.id, Began: t.began, Tokens: t.tokens,
		Told: t.settled, Prompt: t.prompt, Cached: t.cached, Output: t.output}
	if kind == talk.Enter || kind == talk.Seat {
		r.Request, r.Arrived = &t.request, t.arrived
		r.Require, r.Prefer = t.of.classesOf(&t.request)
		if e := t.pass.Endpoint; e != nil {
			r.Replica, r.Class, r.Address, r.Started = e.ID, e.Class, e.Address, t.started
		}
	}
	return r
}

// stand is entered with the lock held and the request placed; it returns without the
// lock, when the request has a slot or waits no more.
func (s *Shared) stand(ctx context.Context, t *seat, now time.Time) error {
	s.pump(now)
	p := t.pass
	if p.Endpoint != nil || t.err != nil {
		defer s.mu.Unlock()
		return t.err
	}
	ready := make(chan struct{})
	p.ready = ready
	starved := s.queue.Starving()
	s.mu.Unlock()
	if starved {
		s.options.Starved()
	}
	s.options.Waits()
	expire := time.NewTimer(t.request.Expire.Sub(now))
	defer expire.Stop()
	err := ErrExpired
	select {
	case <-ready:
		s.mu.Lock()
		defer s.mu.Unlock()
		return t.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-expire.C:
	}
	return s.giveUp(t, err)
}

// giveUp ends the wait of a request, unless it got a slot in the meantime.
func (s *Shared) giveUp(t *seat, err error) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.err != nil:
		return t.err
	case t.pass.Endpoint != nil && err == ErrExpired:
		return nil
	case t.pass.Endpoint != nil:
		s.release(t, dispatch.Neutral, 0, now)
		return err
	}
	s.forget(t, now)
	if t.queued {
		s.queue.Withdraw(&t.inner.ticket)
		s.pump(now)
	} else {
		s.ask(t, talk.Withdraw)
	}
	return err
}

// forget drops a request that waits.
func (s *Shared) forget(t *seat, now time.Time) {
	delete(s.seats, t.id)
	s.waits(t.pass.counted().less(), now)
}

// wait counts a request that begins to wait.
func (s *Shared) wait(t *seat, now time.Time) {
	t.pass.tokens = expected(&t.request)
	s.waits(t.pass.counted(), now)
}

func (s *Shared) waits(d amount, now time.Time) {
	s.queued = s.queued.plus(d)
	s.series.queued(now, d)
}

// hold counts requests of this gateway on a replica.
func (s *Shared) hold(e *Endpoint, d amount, now time.Time) {
	h := s.active[e.ID]
	if h == nil {
		h = &held{class: e.Class}
		s.active[e.ID] = h
	}
	if h.amount = h.amount.plus(d); h.amount.requests == 0 {
		delete(s.active, e.ID)
	}
	s.series.active(now, e.Class, d)
}

// told is called under the lock when this gateway's own queue has decided.
func (t *seat) told(p *Pass, now time.Time) {
	if p.evicted {
		t.queued = false
		t.refuse(&Refused{dispatch.QueueFull, time.Second}, now)
		return
	}
	t.granted(p.Endpoint, now)
}

func (t *seat) granted(e *Endpoint, now time.Time) {
	s, p := t.of, t.pass
	t.started = now
	t.began, t.settled, t.tokens = false, false, 0
	p.Endpoint, p.waited = e, now.Sub(t.asked)
	s.waits(p.counted().less(), now)
	p.tokens = s.starting(&t.request)
	s.hold(e, p.counted(), now)
	t.wake()
}

func (t *seat) refuse(err error, now time.Time) {
	t.err = err
	t.of.forget(t, now)
	t.wake()
}

func (t *seat) wake() {
	if t.pass.ready != nil {
		close(t.pass.ready)
		t.pass.ready = nil
	}
}

// Again is that of Line.
func (s *Shared) Again(ctx context.Context, p *Pass, o dispatch.Verdict, pause time.Duration) error {
	now := time.Now()
	s.mu.Lock()
	t := p.seat
	if p.Endpoint == nil || t == nil {
		s.mu.Unlock()
		return errors.New("line: Again without a slot")
	}
	s.hold(p.Endpoint, p.counted().less(), now)
	p.Endpoint, p.ready = nil, nil
	s.wait(t, now)
	t.asked = now
	switch {
	case t.queued:
		t.inner.Endpoint = nil
		s.queue.Retry(&t.inner.ticket, o, pause, now)
	case s.decides():
		s.restore(t)
	default:
		r := t.record(talk.Again)
		r.Verdict, r.Pause = o, pause
		s.toOwner(r)
	}
	return s.stand(ctx, t, now)
}

func (s *Shared) toOwner(r talk.Record) {
	if owner, known := s.owned.Owner(); known && owner != s.self {
		s.send(owner, r)
	}
}

// Leave is that of Line.
func (s *Shared) Leave(p *Pass, o dispatch.Verdict, pause time.Duration) time.Duration {
	now := time.Now()
	s.mu.Lock()
	if p.Endpoint == nil || p.seat == nil {
		s.mu.Unlock()
		return 0
	}
	took := now.Sub(p.seat.started)
	woken := s.release(p.seat, o, pause, now)
	s.mu.Unlock()
	if woken {
		runtime.Gosched()
	}
	return took
}

// release ends a request that holds a slot.
func (s *Shared) release(t *seat, o dispatch.Verdict, pause time.Duration, now time.Time) bool {
	delete(s.seats, t.id)
	s.hold(t.pass.Endpoint, t.pass.counted().less(), now)
	t.pass.Endpoint = nil
	if t.queued {
		t.inner.Endpoint = nil
		s.queue.Finish(&t.inner.ticket, o, pause, now)
		return s.pump(now)
	}
	r := t.record(talk.Leave)
	r.Verdict, r.Pause = o, pause
	s.toOwner(r)
	return false
}

// Began is that of Line.
func (s *Shared) Began(p *Pass) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.seat
	if t == nil || p.Endpoint == nil {
		return
	}
	t.began = true
	if t.queued {
		s.queue.Began(&t.inner.ticket, now)
		s.pump(now)
		return
	}
	t.marked = now
	s.ask(t, talk.Mark)
}

// markEvery is how often a member reports how many tokens of an answer have come.
const markEvery = 50 * time.Millisecond

// Progress is that of Line.
func (s *Shared) Progress(p *Pass, tokens int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.seat
	if t == nil || p.Endpoint == nil {
		return
	}
	t.tokens = tokens
	s.grow(p, &t.request, tokens, now)
	if t.queued {
		s.queue.Progress(&t.inner.ticket, tokens, now)
		return
	}
	if now.Sub(t.marked) >= markEvery {
		t.marked = now
		s.ask(t, talk.Mark)
	}
}

// Settle is that of Line.
func (s *Shared) Settle(p *Pass, prompt, cached, output int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.seat
	if t == nil || p.Endpoint == nil {
		return
	}
	t.settled, t.prompt, t.cached, t.output = true, prompt, cached, output
	if t.queued {
		s.queue.Settle(&t.inner.ticket, prompt, cached, output)
	}
}
