package ownership

import "time"

// Step updates the role and returns the actions to perform. Callers call it after every event and
// once per Beat.
func (s *Service) Step(v *View, now time.Time) Action {
	switch s.role {
	case Member:
		if p, known := v.peer(s.owner); !known || p.Link != Up {
			s.become(Apart, now)
		}
	case Gathering:
		switch {
		case now.Sub(s.lease) >= Silence:
			// Nobody confirms this gateway, so it cannot become the owner and must not keep
			// requests waiting.
			s.become(Apart, now)
			return Lapse
		case s.all(v, s.since, now) && now.Before(s.lease):
			s.become(Owner, now)
			return Open
		}
	case Owner:
		if !now.Before(s.lease) {
			s.become(Apart, now)
			return Lapse
		}
		if s.yields(v, now) {
			s.ended = s.epoch
			s.become(Apart, now)
			return Close
		}
	}
	if s.role == Apart {
		return s.apart(v, now)
	}
	return None
}

// all reports whether every gateway has answered, has ended, or was silent for so long that it can
// no longer act on an earlier epoch.
func (s *Service) all(v *View, since, now time.Time) bool {
	for _, p := range v.Peers {
		switch {
		case s.done[p.ID], p.Link == Gone:
		case p.Link == Silent && (s.mute[p.ID] || now.Sub(since) >= Outlast &&
			(!p.Strange || now.Sub(since) >= Settle)):
		default:
			return false
		}
	}
	return true
}

// yields reports whether this gateway must hand over the service: because it is about to end, or
// because another has been the first in the order for long enough.
func (s *Service) yields(v *View, now time.Time) bool {
	first, any := s.first(v)
	switch {
	case !any || !v.Consul:
		return false
	case v.Leaving:
		return true
	case first == s.self:
		s.better = time.Time{}
		return false
	case s.better.IsZero():
		s.better = now
	}
	return now.Sub(s.better) >= Steady
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

// turn is how much longer each gateway in the order waits than the one before it, in case that one
// cannot reach Consul.
const turn = time.Second

func (s *Service) apart(v *View, now time.Time) Action {
	switch held := s.holds(); {
	case held && s.pledge && !s.all(v, s.heard, now):
		return None
	case held && now.Before(s.lease):
		// It has just taken the epoch, or its lease has ended but its epoch has not.
		s.gather(v, now)
		return Gather
	case !v.Consul || !s.read || v.Leaving:
		return None
	case !s.lost(v, now):
		return None
	}
	for at, id := range s.candidates(v) {
		if id == s.self && now.Sub(s.since) >= time.Duration(at)*turn {
			return Claim
		}
	}
	return None
}

// holds reports whether this gateway took the newest epoch that it knows of, and that epoch has not
// ended.
func (s *Service) holds() bool {
	return s.mine != 0 && s.mine == s.epoch && s.record == (Record{s.mine, s.self}) && s.ended != s.mine
}

// lost reports whether the owner in Consul's record no longer decides.
func (s *Service) lost(v *View, now time.Time) bool {
	r := s.record
	if r.Epoch == 0 || r.Owner == s.self || s.ended == r.Epoch {
		return true
	}
	p, known := v.peer(r.Owner)
	switch {
	case !known:
		return now.Sub(s.since) >= Silence
	case p.Link == Gone:
		return true
	case p.Link == Up:
		return p.Leaving && now.Sub(s.since) >= Silence
	}
	return now.Sub(p.Heard) >= Silence && !(s.rival == r.Owner && now.Before(s.respite)) && !followed(v, r)
}

// followed reports whether another gateway hears the owner: then only this one is cut off.
func followed(v *View, r Record) bool {
	for _, p := range v.Peers {
		if p.Link == Up && p.ID != r.Owner && p.Follows == r.Epoch {
			return true
		}
	}
	return false
}
