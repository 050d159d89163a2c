package line

import (
	"fmt"
	"slices"
	"time"

	"aliquot.example/internal/ownership"
)

// Set is like Line.Set.
func (s *Shared) Set(replicas []Replica) {
	now := time.Now()
	s.mu.Lock()
	s.all = slices.Clone(replicas)
	s.applied = applied{}
	s.apply(now)
	s.pump(now)
	s.unlock()
}

// phase is how a gateway without an owner uses slots.
type phase int

const (
	// reusing: it reuses the slots that it held when it lost the owner. No other gateway may use
	// them.
	reusing phase = iota
	// shrinking: it gives up the slots beyond its part, which others are about to use.
	shrinking
	// divided: it uses its part.
	divided
)

// phaseAt returns the phase of a gateway that has had no owner for this time.
func phaseAt(since time.Duration) phase {
	switch {
	case since >= ownership.GracePeriod:
		return divided
	case since >= ownership.GracePeriod/2:
		return shrinking
	}
	return reusing
}

// applied is the input from which the queue's replicas were computed.
type applied struct {
	done     bool // set in every result; the zero value stands for none
	unheard  bool // Shared.unheardGateway, without an owner
	phase    phase
	epoch    uint64
	role     ownership.Role
	gateways string
}

// apply puts the replicas into the queue, without the slots that this gateway may not give.
func (s *Shared) apply(now time.Time) {
	role, epoch, _ := s.owned.Role()
	gateways, ownerless := s.gateways(now)
	from := applied{true, role == ownership.Apart && s.unheardGateway, s.phase, epoch, role,
		fmt.Sprint(gateways, ownerless)}
	if from == s.applied && len(ownerless) == 0 {
		return
	}
	s.applied = from
	taken := map[ownership.ID]map[string]int{}
	for _, p := range ownerless {
		taken[p] = s.heldBy(p)
	}
	out := make([]Replica, len(s.all))
	for i, r := range s.all {
		switch slots := max(r.Slots, 1); role {
		case ownership.Apart:
			use := ownership.Part(r.ID, slots, s.self, gateways)
			switch {
			case s.phase == shrinking && !s.unheardGateway:
				use = min(use, s.heldSlots[r.ID])
			case s.phase == reusing && !s.unheardGateway:
				use = s.heldSlots[r.ID]
			case s.phase != divided:
				use = 0
			}
			r.Withheld = slots - use
		case ownership.Owner, ownership.Gathering:
			for _, p := range ownerless {
				r.Withheld += max(0, ownership.Part(r.ID, slots, p, s.peerState(p).knownGateways)-taken[p][r.ID])
			}
		}
		out[i] = s.divideCache(r, len(gateways), role)
	}
	s.put(out, now)
}

// divideCache adjusts a replica whose engine batches. If slots do not limit it, its cache is divided
// instead.
func (s *Shared) divideCache(r Replica, n int, role ownership.Role) Replica {
	if s.options.Policy.Mode == 0 || r.Slots > 1 {
		return r
	}
	r.Withheld = 0
	if role == ownership.Apart {
		r.KV /= n
	}
	return r
}

// allReachable reports whether the next owner will certainly get this gateway's report. Otherwise
// this gateway must not reuse the slots that it held when it lost the owner, because the next owner
// cannot know of them.
func (s *Shared) allReachable() bool {
	for _, p := range s.view.Peers {
		if p.Link == ownership.Silent && p.ID != s.lastOwner {
			return false
		}
	}
	return true
}

// gateways returns the gateways among which slots are divided, and those of them that may use their
// part because they may not know of the owner.
func (s *Shared) gateways(now time.Time) (all, ownerless []ownership.ID) {
	all = append(all, s.self)
	for _, p := range s.view.Peers {
		if p.Link == ownership.Gone || p.Link == ownership.Silent && !p.Registered &&
			now.Sub(p.Heard) >= ownership.SlotHold {
			continue
		}
		all = append(all, p.ID)
		if st := s.peerStates[p.ID]; st == nil || !st.reported {
			ownerless = append(ownerless, p.ID)
		}
	}
	if role, _, _ := s.owned.Role(); role == ownership.Apart {
		// A gateway that is cut off does not see others exit. While there is no owner, parts only
		// shrink, so that the parts of two gateways never overlap.
		for _, id := range s.knownGateways {
			if !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
		s.knownGateways = all
	}
	slices.Sort(all)
	for _, id := range ownerless {
		s.recordDivision(id, all)
	}
	return all, ownerless
}

// recordDivision records among which gateways another one, which may not follow the owner, may divide the
// slots: its part is larger with fewer gateways. It may not know the gateways that have joined
// since it was heard, including one that has returned. It may also know that others have gone.
func (s *Shared) recordDivision(by ownership.ID, now []ownership.ID) {
	st := s.peerState(by)
	if st.knownGateways == nil {
		st.knownGateways = now
	}
	st.knownGateways = slices.DeleteFunc(slices.Clone(st.knownGateways), func(id ownership.ID) bool {
		return id != by && !slices.Contains(now, id)
	})
}

// heldBy returns the number of slots that a gateway holds, by replica.
func (s *Shared) heldBy(by ownership.ID) map[string]int {
	out := map[string]int{}
	if st := s.peerStates[by]; st != nil {
		for _, g := range st.remotes {
			if g.present && g.Endpoint != nil {
				out[g.Endpoint.ID]++
			}
		}
	}
	return out
}

// State returns this gateway's requests, and the replicas as it knows them.
func (s *Shared) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, _, _ := s.owned.Role()
	st := State{Decides: role == ownership.Owner, Queued: s.queued.requests, Active: map[string]int{},
		QueuedTokens: s.queued.tokens, ActiveTokens: map[string]int{}, Replicas: s.queue.Replicas()}
	if st.Decides {
		st.Waits = waitsOf(s.queue)
	}
	for i := range st.Replicas {
		r := &st.Replicas[i]
		r.Active = 0
		if h := s.active[r.ID]; h != nil {
			r.Active = h.amount.requests
		}
		st.Active[r.Class] += 0
	}
	for _, h := range s.active {
		st.Active[h.class] += h.amount.requests
		st.ActiveTokens[h.class] += h.amount.tokens
	}
	return st
}

// Whole is like Line.Whole.
func (s *Shared) Whole() bool { return true }

// Decides is like Line.Decides.
func (s *Shared) Decides() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, _, _ := s.owned.Role()
	return role == ownership.Owner
}

// Role returns the role of this gateway for the service, the epoch, and the owner, "" if there is
// none.
func (s *Shared) Role() (role ownership.Role, epoch uint64, owner ownership.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, epoch, _ = s.owned.Role()
	owner, _ = s.owned.Owner()
	return role, epoch, owner
}
