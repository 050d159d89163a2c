package ownership

import "time"

// The times of the protocol. Their order makes it safe: a lease ends before a link counts as
// silent, and before a new owner stops waiting for a silent gateway.
const (
	// HeartbeatInterval is the interval of heartbeats between gateways.
	HeartbeatInterval = 100 * time.Millisecond
	// PeerTimeout is the time without a sign of life after which a gateway counts as lost.
	PeerTimeout = 800 * time.Millisecond
	// Lease is how long an owner grants after the last proof that it is the owner.
	Lease = 700 * time.Millisecond
	// ClaimWait is how long a new owner waits for gateways that are silent, from its claim or from
	// the last promise. For gateways about which it knows nothing it waits for GracePeriod: after that
	// they use no more than their part.
	ClaimWait = 800 * time.Millisecond
	// GracePeriod is how long a gateway that lost its owner uses only the slots that it held then.
	// Afterwards it uses its part of all slots.
	GracePeriod = 3 * time.Second
	// SlotHold is for how long the slots of a silent gateway count as taken.
	SlotHold = 30 * time.Second
	// HandoverDelay is how long another gateway must be the first in the order until the owner
	// hands the service over to it.
	HandoverDelay = 10 * time.Second
	// TakeoverBackoff is how long a gateway leaves its service to one that it cannot reach and that has
	// taken the service: otherwise two gateways that cannot reach each other would take turns
	// forever.
	TakeoverBackoff = 30 * time.Second
)

// Role is a gateway's role for a service.
type Role int

// The roles.
const (
	Apart     Role = iota // it knows no owner and uses its part of the slots
	Member                // it requests slots from the owner
	Gathering             // it holds the epoch and collects the reports of the others
	Owner                 // it decides
)

func (r Role) String() string { return [...]string{"apart", "member", "gathering", "owner"}[r] }

// Link is the state of the connection to another gateway.
type Link int

// The states of a link.
const (
	Silent Link = iota // there are no signs of life
	Up                 // there are signs of life
	Gone               // its process has ended, according to its host
)

// Peer is the state of another gateway as this one sees it.
type Peer struct {
	ID
	Link Link
	// Heard is the time of its last sign of life, or when it became known.
	Heard time.Time
	// Acked is when the last sign of life that it has confirmed was sent to it.
	Acked time.Time
	// Registered is set if Consul lists it as live; Leaving if it has announced its end.
	Registered, Leaving bool
	// Follows is the epoch of the owner that it hears or is, 0 for none.
	Follows uint64
	// Hears are the gateways that it hears and that hear it; none if it does not say so.
	Hears []ID
	// Unheard is set if this process has never heard from it, so that the slots that it holds are
	// unknown.
	Unheard bool
}

// Record is a service's record in Consul; the zero Record stands for none.
type Record struct {
	Epoch uint64
	Owner ID
}

// View is what a gateway knows about Consul, itself and the others.
type View struct {
	Peers   []Peer
	Consul  bool // Consul answers
	Leaving bool // this gateway is about to end
}

func (v *View) peer(id ID) (Peer, bool) {
	for _, p := range v.Peers {
		if p.ID == id {
			return p, true
		}
	}
	return Peer{}, false
}

// Action is an action that a gateway must perform.
type Action int

// The actions.
const (
	None     Action = iota
	Claim           // write the next epoch into Consul by check-and-set, then call Taken
	Announce        // announce to all gateways that this one owns the service
	Open            // start to grant
	Close           // stop granting and announce it to all gateways
	Lapse           // stop granting: the lease is over
)

// Service is one gateway's state in the protocol for the owner of a service.
type Service struct {
	name string
	self ID

	role  Role
	owner ID     // of a Member
	epoch uint64 // messages of an earlier epoch are ignored
	since time.Time

	record     Record
	read       bool   // record was read once
	ownEpoch   uint64 // the last epoch that this process took
	endedEpoch uint64 // an epoch whose owner has announced its end
	// responded are the gateways that have promised to ignore earlier epochs, and then those that have
	// reported; silent are those that were silent when reports were requested.
	responded, silent map[ID]bool
	awaiting          bool      // this gateway took the epoch and waits for promises
	lastPromise       time.Time // the last promise, or the claim
	lease             time.Time
	betterSince       time.Time // since when another gateway would be first
	rival             ID        // the gateway that took the service and keeps it until backoffUntil
	backoffUntil      time.Time
}

// New returns the state of a service about which nothing is known.
func New(name string, self ID, now time.Time) *Service {
	return &Service{name: name, self: self, since: now, responded: map[ID]bool{}, silent: map[ID]bool{}}
}

// Role returns the role, the epoch in force and since when.
func (s *Service) Role() (Role, uint64, time.Time) { return s.role, s.epoch, s.since }

// InForce returns the epoch before which messages are ignored, and the gateway that took it, if
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

// RecordedOwner returns the gateway that Consul names as the owner; "" for none.
func (s *Service) RecordedOwner() ID { return s.record.Owner }

// Owner returns the gateway that decides; false if none is known.
func (s *Service) Owner() (ID, bool) {
	switch s.role {
	case Member:
		return s.owner, true
	case Owner:
		return s.self, true
	}
	return "", false
}

func (s *Service) setRole(r Role, now time.Time) {
	s.role, s.since, s.betterSince = r, now, time.Time{}
}

// Observe processes the service's record in Consul. It reports whether the role changed.
func (s *Service) Observe(r Record, now time.Time) (changed bool) {
	s.read = true
	if r.Epoch < s.record.Epoch {
		return false
	}
	s.record = r
	if r.Epoch <= s.epoch {
		return false
	}
	if r.Owner == s.self {
		// Either Taken is about to be called, or the answer to the claim was lost, or a previous
		// process at this address made the claim. In each case nobody owns the service in the epoch
		// in force here, and only this gateway will claim it.
		changed = s.role != Apart
		if changed {
			s.setRole(Apart, now)
		}
		return changed
	}
	s.recordRival(r.Owner, now)
	s.epoch, s.awaiting = r.Epoch, false
	changed = s.role != Apart
	if changed {
		s.setRole(Apart, now)
	}
	return changed
}

// recordRival records which gateway took the service from this one, which held it until then even if its
// lease had ended.
func (s *Service) recordRival(by ID, now time.Time) {
	if s.ownEpoch != 0 && s.ownEpoch == s.epoch && s.endedEpoch != s.ownEpoch {
		s.rival, s.backoffUntil = by, now.Add(TakeoverBackoff)
	}
}

// Next returns the record that a Claim writes, and the one that it replaces.
func (s *Service) Next() (next, old Record) {
	return Record{max(s.record.Epoch, s.epoch) + 1, s.self}, s.record
}

// OwnEpoch returns the epoch that this gateway claimed last, 0 if it claimed none.
func (s *Service) OwnEpoch() uint64 { return s.ownEpoch }

// Taken processes a successful Claim. All other gateways must promise to ignore earlier epochs;
// until then nothing changes.
func (s *Service) Taken(epoch uint64, now time.Time) {
	if epoch <= s.epoch {
		return // a later epoch is already known
	}
	s.epoch, s.ownEpoch, s.record = epoch, epoch, Record{epoch, s.self}
	s.awaiting, s.lastPromise = true, now
	if s.role != Apart {
		s.setRole(Apart, now)
	}
	clear(s.responded)
	clear(s.silent)
}

// Promised processes the promise of a gateway to ignore epochs before this one.
func (s *Service) Promised(from ID, epoch uint64, now time.Time) {
	if s.awaiting && epoch == s.ownEpoch && !s.responded[from] {
		s.responded[from] = true
		s.lastPromise = now // until now, the former owner may have relied on that gateway
	}
}

// AwaitsPromises reports whether this gateway took the epoch and waits for promises.
func (s *Service) AwaitsPromises() bool { return s.awaiting }

// gather requests reports from the reachable gateways; it has waited long enough for the others. A
// gateway that has promised is reachable, even if its link does not count as up again yet.
func (s *Service) gather(v *View, now time.Time) {
	clear(s.silent)
	for _, p := range v.Peers {
		s.silent[p.ID] = p.Link == Silent && !(s.awaiting && s.responded[p.ID])
	}
	clear(s.responded)
	s.awaiting = false
	s.setRole(Gathering, now)
}

// Reported processes the report of a gateway with all that it holds and waits for.
func (s *Service) Reported(from ID, epoch uint64, now time.Time) bool {
	if epoch != s.epoch || s.role != Gathering && s.role != Owner {
		return false
	}
	s.responded[from] = true
	return true
}

// Claimed processes an owner's announcement that it holds an epoch. It reports whether this gateway
// follows: then it must send a report, and ignore earlier epochs.
func (s *Service) Claimed(from ID, epoch uint64, now time.Time) bool {
	switch {
	case epoch < s.epoch, epoch == s.endedEpoch:
		return false
	case epoch == s.epoch && (s.role == Owner || s.role == Gathering || s.role == Member && s.owner != from):
		return false
	}
	s.epoch, s.owner, s.awaiting = epoch, from, false
	s.rival = "" // the gateway that took the service can be heard
	s.setRole(Member, now)
	return true
}

// Ended processes an owner's announcement that it grants no more.
func (s *Service) Ended(from ID, epoch uint64, now time.Time) (changed bool) {
	if epoch < s.epoch {
		return false
	}
	s.endedEpoch = epoch
	if s.role == Member && s.owner == from {
		s.setRole(Apart, now)
		return true
	}
	return false
}

// Resumed handles a pause of this process that was longer than a Lease: its state may be outdated, and
// the messages that it has not read yet were sent while it still counted as live.
func (s *Service) Resumed(now time.Time) (changed bool) {
	changed = s.role != Apart
	s.setRole(Apart, now)
	return changed
}

// Lapsed processes an owner's announcement that it grants nothing until its next claim.
func (s *Service) Lapsed(from ID, epoch uint64, now time.Time) (changed bool) {
	if s.role == Member && s.owner == from && s.epoch == epoch {
		s.setRole(Apart, now)
		return true
	}
	return false
}

// Confirm extends the lease: at the given time Consul was queried and named this gateway.
func (s *Service) Confirm(asked time.Time) { s.extendLease(asked) }

// Acked extends the lease: all known gateways have received what this one sent at the given time,
// and know no later epoch.
func (s *Service) Acked(sent time.Time) { s.extendLease(sent) }

func (s *Service) extendLease(from time.Time) {
	if until := from.Add(Lease); until.After(s.lease) {
		s.lease = until
	}
}

// MayGrant reports whether the gateway may grant slots as the owner.
func (s *Service) MayGrant(now time.Time) bool { return s.role == Owner && now.Before(s.lease) }
