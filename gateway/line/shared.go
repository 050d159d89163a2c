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

// Shared is the line of a service that several gateways serve. One of them, the owner, decides for
// all. This gateway asks the owner for slots, or is the owner itself. While there is no owner, it
// uses its part of the slots.
//
// The Line's mutex guards the fields. The Line's queue holds the requests for which this gateway
// presently decides: none, its own, or those of all gateways.
type Shared struct {
	*Line
	name  string
	self  ownership.ID
	owned *ownership.Service
	send  func(to ownership.ID, r talk.Record)

	carried    map[uint64]*carried // the requests that this gateway carries
	next       uint64
	queued     amount
	active     map[string]*held // those with a slot, by replica
	peerStates map[ownership.ID]*peerState
	view       ownership.View
	all        []Replica
	heldSlots  map[string]int // slots in use when the owner was lost
	// unheardGateway reports whether some gateway was not heard since the owner was lost. It may have
	// become the owner without knowing of heldSlots.
	unheardGateway bool
	lastOwner      ownership.ID // the last owner that this gateway followed
	lastUpdate     time.Time    // when UpdatePeers was last called
	// detached reports whether UpdatePeers is no longer called; see Detach.
	detached      bool
	salt          [2]uint64      // of the hashes of prompts
	phase         phase          // since the owner was lost
	knownGateways []ownership.ID // the gateways known since the owner was lost
	// reports is the number of this gateway's last report. Decisions of an owner based on an older
	// one are void.
	reports uint64
	// claims is the number of the last claim that this gateway sent as an owner, claim the number
	// of the claim that it follows.
	claims, claim uint64
	applied       applied
	// charges are the last charges of the owner. chargesSent is when this gateway last sent its own.
	charges     []dispatch.Charge
	chargesSent time.Time
	config      uint64 // fingerprint of the policy in force
}

// held is the number of requests of this gateway on a replica.
type held struct {
	class  string
	amount amount
}

// carried is a request that this gateway carries, in a Shared.
type carried struct {
	of      *Shared
	id      uint64
	pass    *Pass
	local   Pass // its place in the queue, while this gateway decides
	queued  bool // local is in the queue or holds a slot
	request dispatch.Request
	arrived time.Time
	started time.Time
	err     error
	// entered is the epoch of the owner that was asked to accept the request, 0 once it is known to be
	// accepted.
	entered uint64

	began, settled         bool
	tokens                 int
	prompt, cached, output int
	marked                 time.Time
}

// NewShared returns a line without replicas and without an owner. send sends a record to another
// gateway, in the order of the calls. It must not block.
func NewShared(o Options, name string, self ownership.ID, send func(to ownership.ID, r talk.Record)) *Shared {
	now := time.Now()
	s := &Shared{
		Line: New(o), name: name, self: self, owned: ownership.New(name, self, now), send: send,
		carried: map[uint64]*carried{}, active: map[string]*held{},
		peerStates: map[ownership.ID]*peerState{}, heldSlots: map[string]int{},
	}
	s.lastUpdate, s.config = now, fingerprint(o.Policy)
	var random [16]byte
	rand.Read(random[:])
	s.salt = [2]uint64{binary.LittleEndian.Uint64(random[:]), binary.LittleEndian.Uint64(random[8:])}
	s.may = s.mayGrant
	return s
}

// Salt returns the salt of the hashes of prompts. All gateways use the owner's salt, so that the
// owner recognizes equal prompts that arrive at different gateways.
func (s *Shared) Salt() [2]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.salt
}

// mayGrant reports whether the queue may give slots: as the owner during its lease, or without an
// owner within this gateway's part. A process that was stopped gives none until the next UpdatePeers.
func (s *Shared) mayGrant(now time.Time) bool {
	if !s.detached && now.Sub(s.lastUpdate) >= ownership.Lease {
		return false
	}
	switch role, _, _ := s.owned.Role(); role {
	case ownership.Owner:
		return s.owned.MayGrant(now)
	case ownership.Gathering:
		return false
	}
	return true
}

// queuesLocally reports whether requests are in this gateway's own queue.
func (s *Shared) queuesLocally() bool {
	role, _, _ := s.owned.Role()
	return role != ownership.Member
}

// Enter is like Line.Enter.
func (s *Shared) Enter(ctx context.Context, p *Pass, r dispatch.Request) error {
	now := time.Now()
	*p = Pass{asked: now}
	t := &carried{of: s, pass: p, request: r, arrived: now}
	p.carried = t
	s.mu.Lock()
	if refused := s.place(t, now); refused != nil {
		s.mu.Unlock()
		return refused
	}
	s.next++
	t.id = s.next
	s.carried[t.id] = t
	s.wait(t, now)
	if !s.queuesLocally() {
		_, t.entered, _ = s.owned.Role()
		s.ask(t, talk.Enter)
	}
	s.evict(now)
	return s.awaitSlot(ctx, t, now)
}

// place puts a new request into the queue, if this gateway decides.
func (s *Shared) place(t *carried, now time.Time) error {
	if !s.queuesLocally() {
		return nil
	}
	t.local = Pass{holder: t, ticket: dispatch.Ticket{Request: t.request, Value: &t.local}}
	if why, after := s.queue.Submit(&t.local.ticket, now); why != dispatch.Accepted {
		return &Refused{why, after}
	}
	t.queued = true
	return nil
}

// ask sends a record about a request to the owner, if that is another gateway.
func (s *Shared) ask(t *carried, kind talk.Kind) {
	owner, known := s.owned.Owner()
	if !known || owner == s.self {
		return
	}
	r := t.record(kind)
	s.send(owner, r)
}

// record returns a record about a request for the owner.
func (t *carried) record(kind talk.Kind) talk.Record {
	_, epoch, _ := t.of.owned.Role()
	r := talk.Record{Kind: kind, Service: t.of.name, Epoch: epoch, ID: t.id, Began: t.began, Tokens: t.tokens,
		HasUsage: t.settled, Prompt: t.prompt, Cached: t.cached, Output: t.output}
	if kind == talk.Enter || kind == talk.Entry {
		r.Request, r.Arrived = &t.request, t.arrived
		r.Require, r.Prefer = t.of.classesOf(&t.request)
		if e := t.pass.Endpoint; e != nil {
			r.Replica, r.Class, r.Address, r.Started = e.ID, e.Class, e.Address, t.started
		}
	}
	return r
}

// awaitSlot waits until the request has a slot, or no longer waits. The caller holds the lock and has
// placed the request. awaitSlot releases the lock.
func (s *Shared) awaitSlot(ctx context.Context, t *carried, now time.Time) error {
	s.pump(now)
	p := t.pass
	if p.Endpoint != nil || t.err != nil {
		defer s.mu.Unlock()
		return t.err
	}
	ready := s.startWait(p)
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
	return s.giveUpShared(t, err)
}

// giveUpShared ends the wait of a request, unless it got a slot in the meantime.
func (s *Shared) giveUpShared(t *carried, err error) error {
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
		s.queue.Withdraw(&t.local.ticket)
		s.pump(now)
	} else {
		s.ask(t, talk.Withdraw)
	}
	return err
}

// forget drops a waiting request.
func (s *Shared) forget(t *carried, now time.Time) {
	delete(s.carried, t.id)
	s.addQueued(t.pass.counted().negated(), now)
}

// wait counts a request that begins to wait.
func (s *Shared) wait(t *carried, now time.Time) {
	t.pass.tokens = expectedTokens(&t.request)
	s.addQueued(t.pass.counted(), now)
}

func (s *Shared) addQueued(d amount, now time.Time) {
	s.queued = s.queued.plus(d)
	s.series.queued(now, d)
}

// addActive changes the number of this gateway's requests on a replica.
func (s *Shared) addActive(e *Endpoint, d amount, now time.Time) {
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

// decided handles a decision of this gateway's own queue. The caller holds the lock.
func (t *carried) decided(p *Pass, now time.Time) {
	if p.evicted {
		t.queued = false
		t.refuse(&Refused{dispatch.QueueFull, time.Second}, now)
		return
	}
	t.granted(p.Endpoint, now)
}

func (t *carried) granted(e *Endpoint, now time.Time) {
	s, p := t.of, t.pass
	t.started, t.entered = now, 0
	t.began, t.settled, t.tokens = false, false, 0
	p.Endpoint, p.waited = e, max(0, now.Sub(p.asked))
	s.addQueued(p.counted().negated(), now)
	p.tokens = s.startTokens(&t.request)
	s.addActive(e, p.counted(), now)
	t.wake()
}

func (t *carried) refuse(err error, now time.Time) {
	t.err = err
	t.of.forget(t, now)
	t.wake()
}

func (t *carried) wake() {
	if t.pass.ready != nil {
		close(t.pass.ready)
		t.pass.ready = nil
	}
}

// Again is like Line.Again.
func (s *Shared) Again(ctx context.Context, p *Pass, verdict dispatch.Verdict, pause time.Duration) error {
	now := time.Now()
	s.mu.Lock()
	t := p.carried
	if p.Endpoint == nil || t == nil {
		s.mu.Unlock()
		return errors.New("line: Again without a slot")
	}
	s.addActive(p.Endpoint, p.counted().negated(), now)
	p.Endpoint, p.ready, p.asked = nil, nil, now
	s.wait(t, now)
	switch {
	case t.queued:
		t.local.Endpoint = nil
		s.queue.Retry(&t.local.ticket, verdict, pause, now)
	case s.queuesLocally():
		s.restore(t)
	default:
		r := t.record(talk.Again)
		r.Verdict, r.Pause = verdict, pause
		s.toOwner(r)
	}
	return s.awaitSlot(ctx, t, now)
}

func (s *Shared) toOwner(r talk.Record) {
	if owner, known := s.owned.Owner(); known && owner != s.self {
		s.send(owner, r)
	}
}

// Leave is like Line.Leave.
func (s *Shared) Leave(p *Pass, verdict dispatch.Verdict, pause time.Duration) time.Duration {
	now := time.Now()
	s.mu.Lock()
	if p.Endpoint == nil || p.carried == nil {
		s.mu.Unlock()
		return 0
	}
	took := now.Sub(p.carried.started)
	woken := s.release(p.carried, verdict, pause, now)
	s.mu.Unlock()
	if woken {
		runtime.Gosched()
	}
	return took
}

// release ends a request with a slot, and reports whether a waiting goroutine was woken.
func (s *Shared) release(t *carried, verdict dispatch.Verdict, pause time.Duration, now time.Time) bool {
	delete(s.carried, t.id)
	s.addActive(t.pass.Endpoint, t.pass.counted().negated(), now)
	t.pass.Endpoint = nil
	if t.queued {
		t.local.Endpoint = nil
		s.queue.Finish(&t.local.ticket, verdict, pause, now)
		return s.pump(now)
	}
	r := t.record(talk.Leave)
	r.Verdict, r.Pause = verdict, pause
	s.toOwner(r)
	return false
}

// Began is like Line.Began.
func (s *Shared) Began(p *Pass) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.carried
	if t == nil || p.Endpoint == nil {
		return
	}
	t.began = true
	if t.queued {
		s.queue.Began(&t.local.ticket, now)
		s.pump(now)
		return
	}
	t.marked = now
	s.ask(t, talk.Mark)
}

// markInterval is the shortest time between two reports of an answer's progress to the owner.
const markInterval = 50 * time.Millisecond

// Progress is like Line.Progress.
func (s *Shared) Progress(p *Pass, tokens int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.carried
	if t == nil || p.Endpoint == nil {
		return
	}
	t.tokens = tokens
	s.grow(p, &t.request, tokens, now)
	if t.queued {
		s.queue.Progress(&t.local.ticket, tokens, now)
		return
	}
	if now.Sub(t.marked) >= markInterval {
		t.marked = now
		s.ask(t, talk.Mark)
	}
}

// Settle is like Line.Settle.
func (s *Shared) Settle(p *Pass, prompt, cached, output int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.carried
	if t == nil || p.Endpoint == nil {
		return
	}
	t.settled, t.prompt, t.cached, t.output = true, prompt, cached, output
	if t.queued {
		s.queue.Settle(&t.local.ticket, prompt, cached, output)
	}
}
