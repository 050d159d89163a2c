package ownership

import (
	"slices"
	"time"
)

// Step updates the role and returns the action to perform. Callers call it after every event and
// once per HeartbeatInterval.
func (s *Service) Step(v *View, now time.Time) Action {
	switch s.role {
	case Member:
		if p, known := v.peer(s.owner); !known || p.Link != Up {
			s.setRole(Apart, now)
		}
	case Gathering:
		switch {
		case now.Sub(s.lease) >= PeerTimeout:
			// Nobody confirms this gateway, so it cannot become the owner and must not keep
			// requests waiting.
			s.setRole(Apart, now)
			return Lapse
		case s.allResponded(v, s.since, now) && now.Before(s.lease):
			s.setRole(Owner, now)
			return Open
		}
	case Owner:
		if !now.Before(s.lease) {
			s.setRole(Apart, now)
			return Lapse
		}
		if s.handsOver(v, now) {
			s.endedEpoch = s.epoch
			s.setRole(Apart, now)
			return Close
		}
	}
	if s.role == Apart {
		return s.stepApart(v, now)
	}
	return None
}

// allResponded reports whether every gateway has answered, has ended, or was silent for so long that it can
// no longer act on an earlier epoch.
func (s *Service) allResponded(v *View, since, now time.Time) bool {
	for _, p := range v.Peers {
		switch {
		case s.responded[p.ID], p.Link == Gone:
		case p.Link == Silent && (s.silent[p.ID] || now.Sub(since) >= ClaimWait &&
			(!p.Unheard || now.Sub(since) >= GracePeriod)):
		default:
			return false
		}
	}
	return true
}

// handsOver reports whether this gateway must hand over the service: because it is about to end, or
// because another has been the first in the order for long enough and hears all others.
func (s *Service) handsOver(v *View, now time.Time) bool {
	first, others := s.first(v)
	switch {
	case !others || !v.Consul:
		return false
	case v.Leaving:
		return true
	case first == s.self:
		s.betterSince = time.Time{}
		return false
	case s.betterSince.IsZero():
		s.betterSince = now
	}
	// Gateways that the other one does not hear would not follow it.
	return now.Sub(s.betterSince) >= HandoverDelay && v.hearsAll(first)
}

// candidates are the gateways that could own the service, in order.
func (s *Service) candidates(v *View) []ID {
	var ids []ID
	if !v.Leaving {
		ids = append(ids, s.self)
	}
	for _, p := range v.Peers {
		if p.Link == Up && p.Registered && !p.Leaving {
			ids = append(ids, p.ID)
		}
	}
	return Order(s.name, ids)
}

// first returns the gateway that should own the service; false if this gateway is the only one.
func (s *Service) first(v *View) (ID, bool) {
	ids := s.candidates(v)
	if len(ids) == 0 || len(ids) == 1 && ids[0] == s.self {
		return s.self, false
	}
	return ids[0], true
}

// hearsAll reports whether a gateway hears all others that this gateway hears, as far as is known.
func (v *View) hearsAll(id ID) bool {
	p, _ := v.peer(id)
	return len(p.Hears) == 0 || !slices.ContainsFunc(v.Peers, func(q Peer) bool {
		return q.ID != id && q.Link == Up && !slices.Contains(p.Hears, q.ID)
	})
}

// claimStagger is how much longer each gateway in the order waits than the one before it, in case that one
// cannot reach Consul.
const claimStagger = time.Second

func (s *Service) stepApart(v *View, now time.Time) Action {
	switch held := s.ownsEpoch(); {
	case held && s.awaiting && !s.allResponded(v, s.lastPromise, now):
		return None
	case held && now.Before(s.lease):
		// It has just taken the epoch, or its lease has ended but its epoch has not.
		s.gather(v, now)
		return Announce
	case !v.Consul || !s.read || v.Leaving:
		return None
	case !s.ownerLost(v, now):
		return None
	}
	for at, id := range s.candidates(v) {
		if id == s.self && now.Sub(s.since) >= time.Duration(at)*claimStagger {
			return Claim
		}
	}
	return None
}

// ownsEpoch reports whether this gateway took the newest epoch that it knows of, and that epoch has not
// ended.
func (s *Service) ownsEpoch() bool {
	return s.ownEpoch != 0 && s.ownEpoch == s.epoch && s.record == (Record{s.ownEpoch, s.self}) &&
		s.endedEpoch != s.ownEpoch
}

// ownerLost reports whether the owner in Consul's record no longer decides.
func (s *Service) ownerLost(v *View, now time.Time) bool {
	r := s.record
	if r.Epoch == 0 || r.Owner == s.self || s.endedEpoch == r.Epoch {
		return true
	}
	p, known := v.peer(r.Owner)
	switch {
	case !known:
		return now.Sub(s.since) >= PeerTimeout
	case p.Link == Gone:
		return true
	case p.Link == Up:
		return p.Leaving && now.Sub(s.since) >= PeerTimeout
	}
	return now.Sub(p.Heard) >= PeerTimeout && !(s.rival == r.Owner && now.Before(s.backoffUntil)) && !ownerHeard(v, r)
}

// ownerHeard reports whether another gateway hears the owner: then only this one is cut off.
func ownerHeard(v *View, r Record) bool {
	for _, p := range v.Peers {
		if p.Link == Up && p.ID != r.Owner && p.Follows == r.Epoch {
			return true
		}
	}
	return false
}
