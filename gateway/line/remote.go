package line

import (
	"maps"
	"slices"
	"time"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// peerState is what this gateway knows about the requests of another gateway for the service.
type peerState struct {
	remotes map[uint64]*remote // the requests that it reported or asked for, while this gateway is the owner
	// unconfirmed are the remote requests that were known when a report began. They keep their slots until the
	// report ends, so that no slot is given away that the report is about to name.
	unconfirmed []*remote
	// accepted are the IDs of requests that the owner has accepted and that the gateway's next report
	// names: no limit applies to them again.
	accepted map[uint64]bool
	// lastHeld is the number of slots that it held, by replica, when an owner ended that was this gateway
	// or has told it. It is nil once the gateway itself has said what it holds under a later owner.
	lastHeld      map[string]int
	lastHeldAt    time.Time
	lastHeldEpoch uint64            // of that owner
	load          talk.Load         // the last Load that it sent
	counted       map[string]amount // the part of load that the series counts, by class
	queued        amount
	lastRecord    time.Time // when a record of it last arrived
	acked         time.Time // when the last heartbeat was sent that it has confirmed
	report        uint64    // number of its report that remotes are from
	// claim is the number of the last Claimed that was sent to it. answered reports whether its
	// report has begun since: earlier records answer an earlier claim, and may be from before this
	// process was stopped.
	claim    uint64
	answered bool
	// reported reports whether remotes are all its requests. Until then it may use its part of the
	// slots.
	reported bool
	// knownGateways are the gateways among which slots were divided when it was last heard. It may not know
	// later ones.
	knownGateways []ownership.ID
}

// remote is a request that another gateway carries, in the owner's queue.
type remote struct {
	Pass
	of          *Shared
	from        ownership.ID
	id          uint64
	present     bool // it is in the queue or holds a slot
	granted     time.Time
	unplaceable bool // the queue has no placement for it
}

func (s *Shared) peerState(of ownership.ID) *peerState {
	st := s.peerStates[of]
	if st == nil {
		st = &peerState{remotes: map[uint64]*remote{}, counted: map[string]amount{}}
		s.peerStates[of] = st
	}
	return st
}

// decided handles the queue's decision about a remote request. The caller holds the lock.
func (g *remote) decided(p *Pass, now time.Time) {
	if p.evicted {
		g.present = false
		delete(g.of.peerState(g.from).remotes, g.id)
		g.of.refuse(g.from, g.id, dispatch.QueueFull, time.Second)
		return
	}
	r, e := g.of.answer(g.from, talk.Grant, g.id), p.Endpoint
	r.Replica, r.Address, r.Class = e.ID, e.Address, e.Class
	g.granted = now
	g.of.send(g.from, r)
}

// enter queues the request of another gateway.
func (s *Shared) enter(from ownership.ID, r *talk.Record, now time.Time) {
	if r.Request == nil {
		return
	}
	placement, ok := s.translate(r)
	if !ok && r.Replica == "" {
		s.refuse(from, r.ID, dispatch.NoSuchClass, 0)
		return
	}
	g := s.newRemote(from, r)
	g.ticket.Placement, g.unplaceable = placement, !ok
	if st := s.peerState(from); r.Kind == talk.Entry || st.accepted[r.ID] {
		delete(st.accepted, r.ID)
		s.placeRemote(g, r, now)
		return
	}
	if why, after := s.queue.Submit(&g.ticket, now); why != dispatch.Accepted {
		delete(s.peerState(from).remotes, r.ID)
		s.refuse(from, r.ID, why, after)
		return
	}
	g.present = true
	s.evict(now)
}

// refuse tells a gateway that its request is refused.
func (s *Shared) refuse(to ownership.ID, id uint64, why dispatch.Refusal, after time.Duration) {
	r := s.answer(to, talk.Refused, id)
	r.Refusal, r.After = why, after
	s.send(to, r)
}

// answer returns a new record about a request of another gateway.
func (s *Shared) answer(to ownership.ID, kind talk.Kind, id uint64) talk.Record {
	_, epoch, _ := s.owned.Role()
	return talk.Record{Kind: kind, Service: s.name, Epoch: epoch, ID: id, Report: s.peerState(to).report}
}

func (s *Shared) newRemote(from ownership.ID, r *talk.Record) *remote {
	st := s.peerState(from)
	if old := st.remotes[r.ID]; old != nil {
		s.dropRemote(old, time.Now())
	}
	g := &remote{of: s, from: from, id: r.ID}
	g.holder = g
	g.ticket = dispatch.Ticket{Request: *r.Request, Value: &g.Pass}
	st.remotes[r.ID] = g
	return g
}

// placeRemote restores a reported request to its old place in the queue, or to its replica.
func (s *Shared) placeRemote(g *remote, r *talk.Record, now time.Time) {
	if r.Replica == "" {
		s.queue.Restore(&g.ticket, r.Arrived)
		g.present = true
		return
	}
	g.restore(r, now)
}

func (g *remote) restore(r *talk.Record, now time.Time) {
	s := g.of
	g.Endpoint = s.endpoint(r)
	if g.present = s.queue.Adopt(&g.ticket, r.Replica, r.Arrived, r.Started, now); !g.present {
		return
	}
	s.progressOf(&g.ticket, r, now)
}

// progressOf passes the progress of an answer to the queue.
func (s *Shared) progressOf(t *dispatch.Ticket, r *talk.Record, now time.Time) {
	if r.Began {
		s.queue.Began(t, now)
	}
	if r.Tokens > 0 {
		s.queue.Progress(t, r.Tokens, now)
	}
	if r.HasUsage {
		s.queue.Settle(t, r.Prompt, r.Cached, r.Output)
	}
}

// endpoint returns the replica of a record. If this gateway has not discovered the replica yet, the
// record describes it.
func (s *Shared) endpoint(r *talk.Record) *Endpoint {
	if e := s.endpoints[r.Replica]; e != nil {
		return e
	}
	return &Endpoint{ID: r.Replica, Address: r.Address, Class: r.Class, Value: s.value(r.Class)}
}

// dropRemote removes a request of another gateway, whatever it holds.
func (s *Shared) dropRemote(g *remote, now time.Time) {
	if st := s.peerState(g.from); st.remotes[g.id] == g {
		delete(st.remotes, g.id)
	}
	if !g.present {
		return
	}
	g.present = false
	if !s.queue.Withdraw(&g.ticket) {
		s.queue.Finish(&g.ticket, dispatch.Neutral, 0, now)
	}
}

// dropWaiting removes waiting remote requests, because a grant may not reach their gateway.
func (s *Shared) dropWaiting(st *peerState, now time.Time) {
	for id, g := range st.remotes {
		if g.Endpoint == nil {
			s.dropRemote(g, now)
			st.accept(id)
		}
	}
}

// accept records that the owner has accepted a request.
func (st *peerState) accept(id uint64) {
	if st.accepted == nil {
		st.accepted = map[uint64]bool{}
	}
	st.accepted[id] = true
}

// revokeAfter is how long a gateway must have been silent. It notices up to two heartbeats later
// than this gateway that they do not hear each other.
const revokeAfter = ownership.PeerTimeout + 2*ownership.HeartbeatInterval

// revokeGrants takes back grants that a silent gateway may not have received. It has been silent for so
// long that it discards them when it continues. A gateway that was heard may not have received
// anything itself: a grant has certainly arrived if the gateway confirmed a later heartbeat, or
// reported that it carries the request.
func (s *Shared) revokeGrants(st *peerState, now time.Time) {
	var unknown []*remote
	reported := map[string]int{}
	for _, h := range st.load.Replicas {
		reported[h.Replica] = h.Count
	}
	for _, g := range st.remotes {
		switch {
		case g.Endpoint == nil:
		case g.granted.After(st.acked):
			unknown = append(unknown, g)
		default:
			reported[g.Endpoint.ID]--
		}
	}
	slices.SortFunc(unknown, func(a, b *remote) int { return a.granted.Compare(b.granted) })
	for _, g := range unknown {
		if reported[g.Endpoint.ID]--; reported[g.Endpoint.ID] < 0 || g.granted.After(st.lastRecord) {
			s.dropRemote(g, now)
		}
	}
}

// beginReport handles the start of a gateway's report.
func (s *Shared) beginReport(st *peerState, report uint64, now time.Time) {
	s.dropWaiting(st, now)
	for id, g := range st.remotes {
		st.unconfirmed = append(st.unconfirmed, g)
		delete(st.remotes, id)
		st.accept(id)
	}
	st.report = report
}

// endReport handles the end of a gateway's report.
func (s *Shared) endReport(st *peerState, now time.Time) {
	for _, g := range st.unconfirmed {
		s.dropRemote(g, now)
	}
	st.unconfirmed, st.accepted, st.reported, st.knownGateways, st.lastHeld = nil, nil, true, nil, nil
}

// dropAll removes all requests of a gateway.
func (s *Shared) dropAll(st *peerState, now time.Time) {
	for _, g := range st.unconfirmed {
		s.dropRemote(g, now)
	}
	st.unconfirmed, st.accepted = nil, nil
	for _, g := range st.remotes {
		s.dropRemote(g, now)
	}
}

// handleRemote handles the other records about a remote request: it frees the slot, queues the request
// for another one, or records progress.
func (s *Shared) handleRemote(from ownership.ID, r *talk.Record, now time.Time) {
	g := s.peerState(from).remotes[r.ID]
	if g == nil {
		return
	}
	switch {
	case r.Kind == talk.Withdraw:
		s.dropRemote(g, now)
	case r.Kind == talk.Mark:
		s.progressOf(&g.ticket, r, now)
	case r.Kind == talk.Again && g.unplaceable:
		s.dropRemote(g, now)
		s.refuse(from, r.ID, dispatch.NoSuchClass, 0)
	case r.Kind == talk.Again && !g.present:
		g.Endpoint = nil
		s.queue.Restore(&g.ticket, now)
		g.present = true
	case r.Kind == talk.Again:
		s.progressOf(&g.ticket, r, now)
		g.Endpoint = nil
		s.queue.Retry(&g.ticket, r.Verdict, r.Pause, now)
	case r.Kind == talk.Leave:
		delete(s.peerState(from).remotes, r.ID)
		if g.present {
			s.progressOf(&g.ticket, r, now)
			g.present = false
			s.queue.Finish(&g.ticket, r.Verdict, r.Pause, now)
		}
	}
}

// Loads summarizes the requests of this gateway for the others.
func (s *Shared) Loads() talk.Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := talk.Load{Service: s.name, Queued: s.queued.requests, Tokens: s.queued.tokens, Config: s.config}
	l.Charges, l.AllCharges = s.ownCharges(time.Now())
	if role, epoch, _ := s.owned.Role(); role != ownership.Apart {
		l.Follows = epoch
	}
	for id, h := range s.active {
		l.Replicas = append(l.Replicas, talk.Held{Replica: id, Class: h.class, Count: h.amount.requests,
			Tokens: h.amount.tokens})
	}
	return l
}

// Carries stores the summary of another gateway.
func (s *Shared) Carries(from ownership.ID, load talk.Load) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.peerState(from)
	st.lastRecord = now
	s.addToSeries(st, load, now)
	if load.Follows > st.lastHeldEpoch {
		st.lastHeld = nil // it takes no grant of an earlier epoch any more
	}
	if load.AllCharges {
		s.charged(from, load.Charges)
	}
}

// addToSeries adds the requests of another gateway to the series.
func (s *Shared) addToSeries(st *peerState, load talk.Load, now time.Time) {
	classes := map[string]amount{}
	for class := range st.counted {
		classes[class] = amount{}
	}
	for _, h := range load.Replicas {
		classes[h.Class] = classes[h.Class].plus(amount{h.Count, h.Tokens})
	}
	queued := amount{load.Queued, load.Tokens}
	s.series.queued(now, queued.plus(st.queued.negated()))
	for class, carried := range classes {
		if d := carried.plus(st.counted[class].negated()); d != (amount{}) {
			s.series.active(now, class, d)
		}
		if st.counted[class] = carried; carried == (amount{}) {
			delete(st.counted, class)
		}
	}
	st.load, st.queued = load, queued
}

// maxAssumed limits the assumed requests of another gateway on one replica.
const maxAssumed = 1 << 14

// assumeHeld adds remotes for the requests that a silent gateway last reported, or last held.
func (s *Shared) assumeHeld(of ownership.ID, st *peerState, now time.Time) {
	if len(st.remotes) > 0 {
		return
	}
	carries := map[string]int{}
	known := st.lastHeld != nil && now.Sub(st.lastHeldAt) < ownership.SlotHold
	if known {
		maps.Copy(carries, st.lastHeld)
	}
	if !known || !st.lastHeldAt.After(st.lastRecord) {
		for _, h := range st.load.Replicas {
			carries[h.Replica] = max(carries[h.Replica], h.Count)
		}
	}
	id := uint64(1) << 63
	for replica, n := range carries {
		for range min(n, maxAssumed) {
			id++
			g := s.newRemote(of, &talk.Record{ID: id, Request: &dispatch.Request{Expire: now.Add(time.Hour)}})
			g.restore(&talk.Record{Replica: replica, Arrived: now, Started: now}, now)
		}
	}
}

// keepHeld stores what a gateway held at a time, by the knowledge of the owner of an epoch.
func (st *peerState) keepHeld(held map[string]int, epoch uint64, at time.Time) {
	st.lastHeld, st.lastHeldAt, st.lastHeldEpoch = held, at, epoch
}

// knownAt returns the time at which the owner's remotes of the gateway were all that it held: now, or
// when it was last heard if it is silent.
func (st *peerState) knownAt(now time.Time) time.Time {
	if st.reported {
		return now
	}
	return later(st.lastHeldAt, st.lastRecord)
}

// tellHeld tells the others what each gateway holds. The next owner may not hear all of them.
func (s *Shared) tellHeld(epoch uint64, now time.Time) {
	for id, st := range s.peerStates {
		held := s.heldBy(id)
		if len(held) == 0 && !st.reported {
			continue // it is not known
		}
		var load talk.Load
		for replica, n := range held {
			load.Replicas = append(load.Replicas, talk.Held{Replica: replica, Count: n})
		}
		r := talk.Record{Kind: talk.Holds, Service: s.name, Epoch: epoch, Gateway: string(id),
			Started: st.knownAt(now), Loads: []talk.Load{load}}
		for _, p := range s.view.Peers {
			if p.ID != id {
				s.send(p.ID, r)
			}
		}
	}
}

// handleHolds stores what the owner knows of another gateway.
func (s *Shared) handleHolds(from ownership.ID, r *talk.Record, now time.Time) {
	role, epoch, _ := s.owned.Role()
	owner, _ := s.owned.Owner()
	if role != ownership.Member || owner != from || epoch != r.Epoch || len(r.Loads) != 1 ||
		r.Gateway == string(s.self) {
		return
	}
	held := map[string]int{}
	for _, h := range r.Loads[0].Replicas {
		held[h.Replica] += h.Count
	}
	st, at := s.peerState(ownership.ID(r.Gateway)), earlier(r.Started, now)
	if st.lastHeld == nil || !at.Before(st.lastHeldAt) {
		st.keepHeld(held, epoch, at)
	}
}

// report returns the report of all requests of this gateway for the owner, in order of arrival.
func (s *Shared) report() []talk.Record {
	_, epoch, _ := s.owned.Role()
	s.reports++
	out := []talk.Record{{Kind: talk.Begin, Service: s.name, Epoch: epoch, ID: s.claim, Report: s.reports}}
	for _, id := range s.idsByArrival() {
		t, kind := s.carried[id], talk.Entry
		if t.entered == epoch {
			kind = talk.Enter // the owner may not have received it, and its limits apply
		}
		out = append(out, t.record(kind))
	}
	return append(out, talk.Record{Kind: talk.End, Service: s.name, Epoch: epoch})
}

// idsByArrival returns the IDs of this gateway's requests in order of arrival.
func (s *Shared) idsByArrival() []uint64 {
	return slices.Sorted(maps.Keys(s.carried))
}
