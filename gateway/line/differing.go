package line

import (
	"fmt"
	"hash/fnv"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
)

// Gateways are updated one after the other, so that for a while their configurations of a
// service differ. The owner's is in force.

// fingerprint tells policies apart.
func fingerprint(p dispatch.Policy) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%+v", p) // fmt prints maps in order
	return h.Sum64()
}

// Config tells the configuration of this gateway from others of the service.
func (s *Shared) Config() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// Adjust is that of Line.
func (s *Shared) Adjust(p dispatch.Policy) {
	s.Line.Adjust(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = fingerprint(p)
}

// classesOf are those that the placement of a request of this gateway requires and prefers.
func (s *Shared) classesOf(r *dispatch.Request) (require, prefer []string) {
	if all := s.options.Policy.Placements; r.Placement > 0 && r.Placement < len(all) {
		return all[r.Placement].Require, all[r.Placement].Prefer
	}
	return nil, nil
}

// translate returns the placement in this gateway's queue that has the classes of another
// one's request. It returns false where that would be one too many.
func (s *Shared) translate(r *talk.Record) (placement int, ok bool) {
	placement, ok = s.queue.PlacementOf(dispatch.Placement{Require: r.Require, Prefer: r.Prefer})
	return placement, ok || len(r.Require) == 0 // a preference can be done without
}
