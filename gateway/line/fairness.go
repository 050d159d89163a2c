package line

import (
	"time"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

const (
	// fewTenants are those that the owner's account of fairness is sent of with each
	// sign of life; of more it is sent once in tallyMany, as it takes a look at each.
	fewTenants = 4096
	tallyMany  = time.Second
)

// tally is the account of fairness for the other gateways, each of which may own the
// service next; false where this gateway does not own it, or where it is not yet time.
func (s *Shared) tally(now time.Time) ([]dispatch.Charge, bool) {
	if role, _, _ := s.owned.Role(); role != ownership.Owner || s.queue.Tenants() > fewTenants &&
		now.Sub(s.tallied) < tallyMany {
		return nil, false
	}
	s.tallied = now
	return s.queue.Charges(), true
}

// charged takes the owner's account.
func (s *Shared) charged(from ownership.ID, all []dispatch.Charge) {
	if owner, known := s.owned.Owner(); known && owner == from && from != s.self {
		s.charges = all
	}
}
