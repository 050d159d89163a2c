package line

import (
	"time"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

const (
	// With up to fewTenants tenants, the owner sends its accounts of fairness with each heartbeat;
	// with more, only once in chargeInterval, because this visits each tenant.
	fewTenants     = 4096
	chargeInterval = time.Second
)

// ownCharges returns the accounts of fairness for the other gateways, each of which may be the next owner.
// It returns false if this gateway is not the owner, or sent them too recently.
func (s *Shared) ownCharges(now time.Time) ([]dispatch.Charge, bool) {
	if role, _, _ := s.owned.Role(); role != ownership.Owner || s.queue.Tenants() > fewTenants &&
		now.Sub(s.chargesSent) < chargeInterval {
		return nil, false
	}
	s.chargesSent = now
	return s.queue.Charges(), true
}

// charged stores the owner's accounts of fairness.
func (s *Shared) charged(from ownership.ID, all []dispatch.Charge) {
	if owner, known := s.owned.Owner(); known && owner == from && from != s.self {
		s.charges = all
	}
}
