package line

import (
	"fmt"
	"slices"
	"time"

	"aliquot.example/internal/ownership"
)

// Set is that of Line.
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
	// keeping: it hands on the slots that it held when it lost the owner, to which no
	// other gateway has a right.
	keeping phase = iota
	// parting: it gives up those beyond its part, which others are about to use.
	parting
	// parted: it uses its part.
	parted
)

// phaseAt is the phase of a gateway that has been without an owner for so long.
func phaseAt(since time.Duration) phase {
	switch {
	case since >= ownership.Settle:
		return parted
	case since >= ownership.Settle/2:
		return parting
	}
	return keeping
}

// applied is what the replicas in the queue were computed from.
type applied struct {
	done, split bool
	phase       phase
	epoch       uint64
	role        ownership.Role
	gateways    string
}

// apply gives the queue the replicas, without the slots that are not this gateway's
// to give.
func (s *Shared) apply(now time.Time) {
	role, epoch, _ := s.owned.Role()
	gateways, apart := s.gateways(now)
	from := applied{true, role == ownership.Apart && s.split, s.phase, epoch, role, fmt.Sprint(gateways, apart)}
	if from == s.applied && len(apart) == 0 {
		return
	}
	s.applied = from
	taken := map[ownership.ID]map[string]int{}
	for _, p := range apart {
		taken[p] = s.taken(p)
	}
	out := make([]Replica, len(s.all))
	for i, r := range s.all {
		switch slots := max(r.Slots, 1); role {
		case ownership.Apart:
			use := ownership.Part(r.ID, slots, s.self, gateways)
			switch {
			case s.phase == parting && !s.split:
				use = min(use, s.kept[r.ID])
			case s.phase == keeping && !s.split:
				use = s.kept[r.ID]
			case s.phase != parted:
				use = 0
			}
			r.Withheld = slots - use
		case ownership.Owner, ownership.Gathering:
			for _, p := range apart {
				r.Withheld += max(0, ownership.Part(r.ID, slots, p, s.book(p).among)-taken[p][r.ID])
			}
		}
		out[i] = s.within(r, len(gateways), role)
	}
	s.put(out, now)
}

// within is a replica of an engine that batches: where its slots are no bound, its
// cache is what is divided.
func (s *Shared) within(r Replica, n int, role ownership.Role) Replica {
	if s.options.Policy.Mode == 0 || r.Slots > 1 {
		return r
	}
	r.Withheld = 0
	if role == ownership.Apart {
		r.KV /= n
	}
	return r
}

// heardByAll reports whether whoever comes to own the service will hear from this
// gateway what it holds. Else it must not hand on the slots that it held when it lost
// the owner: the next one cannot know of them.
func (s *Shared) heardByAll() bool {
	for _, p := range s.view.Peers {
		if p.Link == ownership.Silent && p.ID != s.lastOwner {
			return false
		}
	}
	return true
}

// gateways lists those among which slots are divided, and which of them may use their
// part because they are not known to have heard of the owner.
func (s *Shared) gateways(now time.Time) (all, apart []ownership.ID) {
	all = append(all, s.self)
	for _, p := range s.view.Peers {
		if p.Link == ownership.Gone || p.Link == ownership.Silent && !p.Registered &&
			now.Sub(p.Heard) >= ownership.Hold {
			continue
		}
		all = append(all, p.ID)
		if b := s.books[p.ID]; b == nil || !b.reported {
			apart = append(apart, p.ID)
		}
	}
	if role, _, _ := s.owned.Role(); role == ownership.Apart {
		// One that is cut off does not see who ends: parts only shrink while there is
		// no owner, so that those of two gateways fit together.
		for _, id := range s.among {
			if !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
		s.among = all
	}
	slices.Sort(all)
	for _, id := range apart {
		s.divides(id, all)
	}
	return all, apart
}

// divides notes among which gateways another one, which is not known to follow, may divide
// the slots: fewer make its part larger. It may not know those that have come since it was
// heard, not even one that was gone and is back, and may know as well as this one that others
// have gone.
func (s *Shared) divides(by ownership.ID, now []ownership.ID) {
	b := s.book(by)
	if b.among == nil {
		b.among = now
	}
	b.among = slices.DeleteFunc(slices.Clone(b.among), func(id ownership.ID) bool {
		return id != by && !slices.Contains(now, id)
	})
}

// taken is how many slots a gateway holds, by replica.
func (s *Shared) taken(by ownership.ID) map[string]int {
	out := map[string]int{}
	if b := s.books[by]; b != nil {
		for _, g := range b.guests {
			if g.present && g.Endpoint != nil {
				out[g.Endpoint.ID]++
			}
		}
	}
	return out
}

// State is what this gateway carries, and the replicas as it knows them.
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

// Whole is that of Line.
func (s *Shared) Whole() bool { return true }

// Decides is that of Line.
func (s *Shared) Decides() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, _, _ := s.owned.Role()
	return role == ownership.Owner
}

// Role returns what this gateway is to the service, in which epoch, and who decides;
// "" where nobody does.
func (s *Shared) Role() (role ownership.Role, epoch uint64, owner ownership.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	role, epoch, _ = s.owned.Role()
	owner, _ = s.owned.Owner()
	return role, epoch, owner
}
