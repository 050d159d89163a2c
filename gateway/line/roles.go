package line

import (
	"time"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// Take applies records of another gateway about this service, in order.
func (s *Shared) Take(from ownership.ID, records []talk.Record) {
	now := time.Now()
	s.mu.Lock()
	s.wakeUp(now)
	for i := range records {
		r := &records[i]
		switch r.Kind {
		case talk.Claimed, talk.Ended, talk.Lapsed:
			s.handleOwner(from, r, now)
		case talk.Holds:
			s.handleHolds(from, r, now)
		case talk.Newer:
			s.saw(ownership.Record{Epoch: r.Epoch, Owner: ownership.ID(r.Gateway)}, now)
			s.owned.Promised(from, r.Epoch, now)
			if r.Gateway == string(from) {
				s.sendEpoch(from)
			}
			s.step(now)
		case talk.Grant, talk.Refused:
			s.handleAnswer(from, r, now)
		default:
			s.handleRequest(from, r, now)
		}
	}
	s.pump(now)
	s.unlock()
}

// unlock releases the lock, and calls Starved and Waits if requests wait.
func (s *Shared) unlock() {
	starved, waits := s.queue.Starving(), s.queue.Waiting() > 0
	s.mu.Unlock()
	if starved {
		s.options.Starved()
	}
	if waits {
		s.options.Waits()
	}
}

// handleOwner handles an owner's records about its role.
func (s *Shared) handleOwner(from ownership.ID, r *talk.Record, now time.Time) {
	before, _, _ := s.owned.Role()
	switch r.Kind {
	case talk.Ended:
		s.charged(from, r.Charges)
		s.owned.Ended(from, r.Epoch, now)
	case talk.Lapsed:
		s.owned.Lapsed(from, r.Epoch, now)
	case talk.Claimed:
		if s.owned.Claimed(from, r.Epoch, now) {
			s.claim = r.ID
			if before != ownership.Member {
				s.charges = s.queue.Charges()
			}
			s.salt = r.Salt
			s.follow(from, now)
			return
		}
	}
	s.changed(before, now)
}

// wakeUp resets the line of a process that was stopped. It must not use earlier grants, or reuse
// the slots that it held.
func (s *Shared) wakeUp(now time.Time) {
	if now.Sub(s.lastUpdate) < ownership.Lease {
		return
	}
	before, _, _ := s.owned.Role()
	s.owned.Resumed(now)
	s.changed(before, now)
	clear(s.heldSlots)
	s.phase, s.applied = reusing, applied{}
	s.apply(now)
	s.lastUpdate = now
}

// follow makes this gateway a member: it stops deciding, and reports its requests to the owner.
func (s *Shared) follow(owner ownership.ID, now time.Time) {
	for _, st := range s.peerStates {
		s.dropAll(st, now)
		st.reported = false
	}
	for _, t := range s.carried {
		if t.queued && !s.queue.Withdraw(&t.local.ticket) {
			s.queue.Finish(&t.local.ticket, dispatch.Neutral, 0, now)
		}
		t.queued = false
	}
	s.lastOwner = owner
	s.apply(now)
	s.promise(owner)
	for _, r := range s.report() {
		s.send(owner, r)
	}
}

// promise sends the epoch to all gateways before anything else. An owner of an earlier epoch must
// not take the next heartbeat as proof that it is still the owner, and the owner of this epoch
// waits for the promise.
func (s *Shared) promise(owner ownership.ID) {
	_, epoch, _ := s.owned.Role()
	for _, p := range s.view.Peers {
		s.send(p.ID, talk.Record{Kind: talk.Newer, Service: s.name, Epoch: epoch, Gateway: string(owner)})
	}
}

// changed handles a change of the role, other than to Member.
func (s *Shared) changed(before ownership.Role, now time.Time) {
	after, _, _ := s.owned.Role()
	if after == before {
		return
	}
	switch after {
	case ownership.Gathering, ownership.Owner:
		s.lastOwner = ""
	case ownership.Apart:
		for id, st := range s.peerStates {
			if had := s.heldBy(id); len(had) > 0 || st.reported {
				// If this process was stopped, what it knows is from before.
				st.keepHeld(had, s.owned.OwnEpoch(), st.knownAt(s.lastUpdate))
			}
			s.dropAll(st, now)
			st.reported = false
		}
		s.recordHeld(before)
		s.phase, s.knownGateways, s.unheardGateway = reusing, nil, !s.allReachable()
	}
	s.apply(now) // before requests are assigned to the replicas
	if before == ownership.Member {
		s.queue.Charged(s.charges)
		s.requeueOwn(now)
	}
	s.pump(now)
}

// recordHeld records the slots that this gateway holds when it loses the owner: all of them if it was the
// owner itself, otherwise those of which the owner knows that they were taken.
func (s *Shared) recordHeld(before ownership.Role) {
	clear(s.heldSlots)
	known := time.Time{}
	for _, p := range s.view.Peers {
		if p.ID == s.lastOwner {
			known = p.Acked
		}
	}
	for _, t := range s.carried {
		if e := t.pass.Endpoint; e != nil && (before != ownership.Member || t.started.Before(known)) {
			s.heldSlots[e.ID]++
		}
	}
}

// requeueOwn puts all requests of this gateway into its own queue.
func (s *Shared) requeueOwn(now time.Time) {
	for _, id := range s.idsByArrival() {
		t := s.carried[id]
		if t.pass.Endpoint == nil {
			s.restore(t)
			continue
		}
		t.local = Pass{holder: t, Endpoint: t.pass.Endpoint, ticket: dispatch.Ticket{Request: t.request,
			Value: &t.local}}
		if t.queued = s.queue.Adopt(&t.local.ticket, t.pass.Endpoint.ID, t.arrived, t.started, now); t.queued {
			r := t.record(talk.Mark)
			s.progressOf(&t.local.ticket, &r, now)
		}
	}
}

func (s *Shared) restore(t *carried) {
	t.local = Pass{holder: t, ticket: dispatch.Ticket{Request: t.request, Value: &t.local}}
	s.queue.Restore(&t.local.ticket, t.arrived)
	t.queued, t.entered = true, 0
}

// handleAnswer applies the owner's decision about a request of this gateway.
func (s *Shared) handleAnswer(from ownership.ID, r *talk.Record, now time.Time) {
	role, epoch, _ := s.owned.Role()
	owner, _ := s.owned.Owner()
	t := s.carried[r.ID]
	if role != ownership.Member || owner != from || epoch != r.Epoch || s.reports != r.Report || t == nil ||
		t.pass.Endpoint != nil {
		return
	}
	if r.Kind == talk.Refused {
		t.refuse(&Refused{r.Refusal, r.After}, now)
		return
	}
	t.granted(s.endpoint(r), now)
	s.queue.Sent(r.Replica, t.request.Blocks)
}

// handleRequest handles a member's record to the owner.
func (s *Shared) handleRequest(from ownership.ID, r *talk.Record, now time.Time) {
	role, epoch, _ := s.owned.Role()
	if role != ownership.Owner && role != ownership.Gathering || epoch != r.Epoch && r.Kind != talk.Lost {
		return
	}
	st := s.peerState(from)
	st.lastRecord = now
	if r.Kind == talk.Begin {
		st.answered = r.ID == st.claim
	}
	if !st.answered && r.Kind != talk.Lost {
		return
	}
	switch r.Kind {
	case talk.Begin:
		s.beginReport(st, r.Report, now)
	case talk.End:
		if s.owned.Reported(from, epoch, now) {
			s.endReport(st, now)
			s.apply(now)
		}
		s.step(now)
	case talk.Enter, talk.Entry:
		s.enter(from, r, now)
	case talk.Lost:
		s.claimTo(from)
	default:
		s.handleRemote(from, r, now)
	}
}

// Greet announces the owner to a gateway that has just become reachable.
func (s *Shared) Greet(to ownership.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimTo(to)
}

func (s *Shared) claimTo(to ownership.ID) {
	if role, epoch, _ := s.owned.Role(); role == ownership.Owner || role == ownership.Gathering {
		st := s.peerState(to)
		s.dropWaiting(st, time.Now()) // the gateway will report them
		st.reported = false
		s.apply(time.Now())
		s.sendClaim(to, epoch)
	}
}

// sendClaim asks a gateway to follow this owner and to send a report.
func (s *Shared) sendClaim(to ownership.ID, epoch uint64) {
	s.claims++
	st := s.peerState(to)
	st.claim, st.answered = s.claims, false
	s.send(to, talk.Record{Kind: talk.Claimed, Service: s.name, Epoch: epoch, ID: st.claim, Salt: s.salt})
}

// Saw handles the record of the service in Consul.
func (s *Shared) Saw(r ownership.Record) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw(r, now)
}

func (s *Shared) saw(r ownership.Record, now time.Time) {
	before, was, _ := s.owned.Role()
	s.owned.Observe(r, now)
	if _, epoch, _ := s.owned.Role(); epoch != was {
		s.promise(r.Owner)
	}
	s.changed(before, now)
}

// Confirm handles the record that Consul returned to a request sent at asked. If it names this
// gateway in its epoch, it confirms the ownership.
func (s *Shared) Confirm(r ownership.Record, asked time.Time) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, epoch, _ := s.owned.Role(); r.Owner == s.self && r.Epoch == epoch {
		s.owned.Confirm(asked)
	}
	s.saw(r, now)
	s.step(now)
	s.pump(now)
}

// Acked records that all gateways have received what this one sent at sent.
func (s *Shared) Acked(sent time.Time) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owned.Acked(sent)
	s.step(now)
	s.pump(now)
}

// Next returns the record to write to Consul in place of old.
func (s *Shared) Next() (next, old ownership.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned.Next()
}

// Taken records that the record of an epoch was written by a request sent at sent.
func (s *Shared) Taken(epoch uint64, sent time.Time) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	before, _, _ := s.owned.Role()
	s.owned.Taken(epoch, now)
	s.owned.Confirm(sent)
	s.changed(before, now)
	s.promise(s.self)
	s.step(now)
}

// UpdatePeers updates what is known of the other gateways. It reports whether this gateway should claim the
// service.
func (s *Shared) UpdatePeers(v ownership.View) (claim bool) {
	now := time.Now()
	s.mu.Lock()
	s.wakeUp(now)
	s.lastUpdate = now
	for i := range v.Peers {
		if st := s.peerStates[v.Peers[i].ID]; st != nil {
			v.Peers[i].Follows = st.load.Follows
		}
	}
	s.view = v
	claim = s.step(now)
	s.sweep(now)
	s.unheardGateway = s.unheardGateway || !s.allReachable()
	s.apply(now)
	s.pump(now)
	if role, _, _ := s.owned.Role(); role == ownership.Apart {
		if s.owned.AwaitsPromises() {
			s.promise(s.self)
		}
		// The owner may not have noticed that this gateway did not hear it for a while.
		if owner := s.owned.RecordedOwner(); owner != "" && owner != s.self {
			s.send(owner, talk.Record{Kind: talk.Lost, Service: s.name})
		}
	}
	s.unlock()
	return claim
}

// step runs the next step of the ownership protocol, and reports whether this gateway should claim
// the service.
func (s *Shared) step(now time.Time) (claim bool) {
	before, epoch, _ := s.owned.Role()
	action := s.owned.Step(&s.view, now)
	var charges []dispatch.Charge
	tell := func(kind talk.Kind) {
		for _, p := range s.view.Peers {
			s.send(p.ID, talk.Record{Kind: kind, Service: s.name, Epoch: epoch, Salt: s.salt, Charges: charges})
		}
	}
	switch action {
	case ownership.Claim:
		claim = true
	case ownership.Announce:
		for _, p := range s.view.Peers {
			s.sendClaim(p.ID, epoch)
		}
	case ownership.Close:
		charges = s.queue.Charges()
		s.tellHeld(epoch, now)
		tell(talk.Ended)
	case ownership.Lapse:
		s.tellHeld(epoch, now)
		tell(talk.Lapsed)
	case ownership.Open:
		s.assumeSilentHold(now)
	}
	s.changed(before, now)
	return claim
}

// assumeSilentHold assumes the requests of silent gateways, which cannot report.
func (s *Shared) assumeSilentHold(now time.Time) {
	for _, p := range s.view.Peers {
		if p.Link == ownership.Silent {
			s.assumeHeld(p.ID, s.peerState(p.ID), now)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sweep drops the requests of gateways that are gone, or silent for long.
func (s *Shared) sweep(now time.Time) {
	known := map[ownership.ID]ownership.Peer{}
	for _, p := range s.view.Peers {
		known[p.ID] = p
	}
	for id, st := range s.peerStates {
		p, there := known[id]
		if p.Acked.After(st.acked) {
			st.acked = p.Acked
		}
		if p.Link == ownership.Up {
			st.knownGateways = nil // see gateways
		} else {
			s.dropWaiting(st, now)
			st.reported = false
		}
		if p.Link == ownership.Silent && now.Sub(p.Heard) >= revokeAfter && now.Sub(st.lastRecord) >= revokeAfter {
			s.revokeGrants(st, now)
		}
		heard := later(p.Heard, st.lastHeldAt)
		if there && p.Link != ownership.Gone && (p.Link == ownership.Up || now.Sub(heard) < ownership.SlotHold) {
			continue
		}
		s.dropAll(st, now)
		s.addToSeries(st, talk.Load{}, now)
		if p.Link == ownership.Gone {
			st.lastHeld = nil
		}
		if !there {
			delete(s.peerStates, id)
		}
	}
	_, _, since := s.owned.Role()
	s.phase = max(s.phase, phaseAt(now.Sub(since)))
}

// SendEpoch sends the epoch in force to a gateway that has become reachable, so that it does not take
// this gateway's next heartbeats as proof of an earlier epoch.
func (s *Shared) SendEpoch(to ownership.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendEpoch(to)
}

func (s *Shared) sendEpoch(to ownership.ID) {
	if r := s.owned.InForce(); r.Epoch != 0 {
		s.send(to, talk.Record{Kind: talk.Newer, Service: s.name, Epoch: r.Epoch, Gateway: string(r.Owner)})
	}
}

// Gone handles the end of another gateway's process, and with it of its requests.
func (s *Shared) Gone(id ownership.ID) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.peerStates[id]; st != nil {
		s.dropAll(st, now)
		s.addToSeries(st, talk.Load{}, now)
		st.reported, st.lastHeld = false, nil
		s.apply(now) // its next process may use its part
		s.pump(now)
	}
}

// Detach disconnects the line from the other gateways after another line has replaced it. Its
// remaining requests use this gateway's part of the slots.
func (s *Shared) Detach() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detached = true
	before, _, _ := s.owned.Role()
	s.owned, s.view = ownership.New(s.name, s.self, now), ownership.View{}
	s.changed(before, now)
	s.phase = divided
	s.apply(now)
	s.pump(now)
}
