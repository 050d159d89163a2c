package ownership

import "time"

// The times of the protocol. Their order is what makes it safe: a lease is over before
// a link counts as silent, and before a new owner stops waiting for a silent one.
const (
	// Beat is how often a gateway says to each other one that it is there.
	Beat = 100 * time.Millisecond
	// Silence is how long nothing is heard of a gateway until it counts as lost.
	Silence = 800 * time.Millisecond
	// Lease is for how long an owner grants after the last proof that it is the owner.
	Lease = 700 * time.Millisecond
	// Outlast is how long a new owner waits for gateways that are silent, from its
	// claim or from the last promise. For those of whom nothing is known it is Settle:
	// then they use no more than their part.
	Outlast = 800 * time.Millisecond
	// Settle is how long a gateway that lost its owner uses only slots that it held
	// then; afterwards it uses its part of all slots.
	Settle = 3 * time.Second
	// Hold is for how long the slots of a silent gateway count as taken.
	Hold = 30 * time.Second
	// Steady is how long another gateway must be the first in the order until the owner
	// hands the service over to it.
	Steady = 10 * time.Second
	// Respite is how long a gateway whose service was taken by one that it cannot reach
	// leaves it there: two that cannot reach each other would take turns for ever.
	Respite = 30 * time.Second
)

// Role is what a gateway is to a service.
type Role int

// The roles.
const (
	Apart     Role = iota // no owner is known: it serves by its part of the slots
	Member                // it asks the owner for slots
	Gathering             // it holds the epoch and collects what the others hold
	Owner                 // it decides
)

func (r Role) String() string { return [...]string{"apart", "member", "gathering", "owner"}[r] }

// Link is what a gateway makes of another.
type Link int

// The states of a link.
const (
	Silent Link = iota // nothing is heard of it
	Up                 // it is heard
	Gone               // its process has ended, as its host says
)

// Peer is another gateway, as it is seen.
type Peer struct {
	ID
	Link Link
	// Heard is when it was heard last, or when it became known.
	Heard time.Time
	// Acked is when the last sign of life was sent to it that it has confirmed.
	Acked time.Time
	// Registered says that Consul holds it for live; Leaving that it says that it ends.
	Registered, Leaving bool
	// Follows is the epoch whose owner it hears, 0 for none.
	Follows uint64
	// Strange says that this process has never heard of it, so that nothing is known of
	// what it holds.
	Strange bool
}

// Record is what Consul holds of a service; the zero Record is that of none.
type Record struct {
	Epoch uint64
	Owner ID
}

// View is what a gateway knows beside its services.
type View struct {
	Peers   []Peer
	Consul  bool // Consul answers
	Leaving bool // this gateway ends
}

func (v *View) peer(id ID) (Peer, bool) {
	for _, p := range v.Peers {
		if p.ID == id {
			return p, true
		}
	}
	return Peer{}, false
}

// Action is what a gateway has to do.
type Action int

// The actions.
const (
	None   Action = iota
	Claim         // write the next epoch into Consul by check-and-set, then call Taken
	Gather        // tell all gateways that this one owns the service
	Open          // begin to grant
	Close         // stop granting and tell all gateways
	Lapse         // stop granting: the lease is over
)

// Service is one gateway's part in who owns a service.
type Service struct {
	name string
	self ID

	role  Role
	owner ID     // of a Member
	epoch uint64 // nothing of an earlier one is taken
	since time.Time

	record Record
	read   bool   // record was read once
	mine   uint64 // the epoch that this process took last
	ended  uint64 // an epoch whose owner said that it ends
	// done are those that have promised to take nothing of an earlier epoch, and then
	// those that have reported; mute those that were silent when reports were asked for.
	done, mute map[ID]bool
	pledge     bool      // this gateway took the epoch and waits for promises
	heard      time.Time // the last promise, or the claim
	lease      time.Time
	better     time.Time // since when another gateway would be first
	rival      ID        // whose taking of the service is left alone until respite
	respite    time.Time
}

// New returns a service of which nothing is known.
func New(name string, self ID, now time.Time) *Service {
	return &Service{name: name, self: self, since: now, done: map[ID]bool{}, mute: map[ID]bool{}}
}

// Role returns the role, the epoch in force and since when.
func (s *Service) Role() (Role, uint64, time.Time) { return s.role, s.epoch, s.since }

// InForce returns the epoch before which nothing is taken, and who took it as far as
// that is known.
func (s *Service) InForce() Record {
	switch {
	case s.role == Member:
		return Record{s.epoch, s.owner}
	case s.record.Epoch == s.epoch:
		return s.record
	}
	return Record{s.epoch, ""}
}

// Named returns the gateway that Consul names as the owner; "" for none.
func (s *Service) Named() ID { return s.record.Owner }

// Owner returns the gateway that decides; false where none is known.
func (s *Service) Owner() (ID, bool) {
	switch s.role {
	case Member:
		return s.owner, true
	case Owner:
		return s.self, true
	}
	return "", false
}

func (s *Service) become(r Role, now time.Time) {
	s.role, s.since, s.better = r, now, time.Time{}
}

// Saw takes what Consul holds. It reports whether the role changed.
func (s *Service) Saw(r Record, now time.Time) (changed bool) {
	s.read = true
	if r.Epoch < s.record.Epoch {
		return false
	}
	s.record = r
	if r.Epoch <= s.epoch {
		return false
	}
	if r.Owner == s.self {
		// Either Taken is about to be called, or the answer to the claim was lost, or a
		// former process at this address made it. In each case nobody owns the service in
		// the epoch that is in force here, and nobody but this gateway will claim it.
		changed = s.role != Apart
		if changed {
			s.become(Apart, now)
		}
		return changed
	}
	s.taken(r.Owner, now)
	s.epoch, s.pledge = r.Epoch, false
	changed = s.role != Apart
	if changed {
		s.become(Apart, now)
	}
	return changed
}

// taken notes who took the service from this gateway, which held it until then even where
// its lease was over.
func (s *Service) taken(by ID, now time.Time) {
	if s.mine != 0 && s.mine == s.epoch && s.ended != s.mine {
		s.rival, s.respite = by, now.Add(Respite)
	}
}

// Next is the record that a Claim writes in place of the one returned second.
func (s *Service) Next() (next, old Record) {
	return Record{max(s.record.Epoch, s.epoch) + 1, s.self}, s.record
}

// Taken says that the epoch was written. All other gateways have to promise that they
// take nothing of an earlier one; until then nothing changes.
func (s *Service) Taken(epoch uint64, now time.Time) {
	if epoch <= s.epoch {
		return // a later one is known by now
	}
	s.epoch, s.mine, s.record = epoch, epoch, Record{epoch, s.self}
	s.pledge, s.heard = true, now
	if s.role != Apart {
		s.become(Apart, now)
	}
	clear(s.done)
	clear(s.mute)
}

// Promised says that a gateway takes nothing of an epoch before this one.
func (s *Service) Promised(from ID, epoch uint64, now time.Time) {
	if s.pledge && epoch == s.mine && !s.done[from] {
		s.done[from] = true
		s.heard = now // until now the former owner may have counted on it
	}
}

// Pledges reports whether this gateway took the epoch and waits for promises.
func (s *Service) Pledges() bool { return s.pledge }

// gather asks those that can be asked to report. All others were waited for. One that has
// promised can be asked, even where its link does not count as up again yet.
func (s *Service) gather(v *View, now time.Time) {
	clear(s.mute)
	for _, p := range v.Peers {
		s.mute[p.ID] = p.Link == Silent && !(s.pledge && s.done[p.ID])
	}
	clear(s.done)
	s.pledge = false
	s.become(Gathering, now)
}

// Reported says that a gateway has reported all that it holds and waits for.
func (s *Service) Reported(from ID, epoch uint64, now time.Time) bool {
	if epoch != s.epoch || s.role != Gathering && s.role != Owner {
		return false
	}
	s.done[from] = true
	return true
}

// Claimed takes an owner's word that it holds an epoch. It reports whether this
// gateway follows: then it must send a report, and take nothing of an earlier epoch.
func (s *Service) Claimed(from ID, epoch uint64, now time.Time) bool {
	switch {
	case epoch < s.epoch, epoch == s.ended:
		return false
	case epoch == s.epoch && (s.role == Owner || s.role == Gathering || s.role == Member && s.owner != from):
		return false
	}
	s.epoch, s.owner, s.pledge = epoch, from, false
	s.rival = "" // whoever took the service is heard
	s.become(Member, now)
	return true
}

// Ended takes an owner's word that it grants no more.
func (s *Service) Ended(from ID, epoch uint64, now time.Time) (changed bool) {
	if epoch < s.epoch {
		return false
	}
	s.ended = epoch
	if s.role == Member && s.owner == from {
		s.become(Apart, now)
		return true
	}
	return false
}

// Woke says that this process was stopped for longer than a Lease: whatever it takes for
// true may be over, and what it has yet to read was said to a gateway that was heard.
func (s *Service) Woke(now time.Time) (changed bool) {
	changed = s.role != Apart
	s.become(Apart, now)
	return changed
}

// Lapsed takes an owner's word that it grants nothing until it says Claimed again.
func (s *Service) Lapsed(from ID, epoch uint64, now time.Time) (changed bool) {
	if s.role == Member && s.owner == from && s.epoch == epoch {
		s.become(Apart, now)
		return true
	}
	return false
}

// Confirm prolongs the lease: Consul was asked at a time and named this gateway.
func (s *Service) Confirm(asked time.Time) { s.prolong(asked) }

// Acked prolongs the lease: all gateways that are known have heard what this one sent
// at a time, and have not been told of a later epoch.
func (s *Service) Acked(sent time.Time) { s.prolong(sent) }

func (s *Service) prolong(from time.Time) {
	if until := from.Add(Lease); until.After(s.lease) {
		s.lease = until
	}
}

// May reports whether the gateway may grant slots as the owner.
func (s *Service) May(now time.Time) bool { return s.role == Owner && now.Before(s.lease) }
