package line

import (
	"fmt"
	"hash/fnv"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
)

// Gateways are updated one after the other, so for some time their configurations of a service
// differ. The owner's configuration is in force.

// fingerprint returns a hash that differs between policies.
func fingerprint(p dispatch.Policy) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%+v", p) // fmt prints maps in order
	return h.Sum64()
}

// Config returns the fingerprint of this gateway's configuration of the service.
func (s *Shared) Config() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// Adjust is like Line.Adjust.
func (s *Shared) Adjust(p dispatch.Policy) {
	s.Line.Adjust(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = fingerprint(p)
}

// classesOf returns the classes that the placement of a request of this gateway requires and prefers.
func (s *Shared) classesOf(r *dispatch.Request) (require, prefer []string) {
	if all := s.options.Policy.Placements; r.Placement > 0 && r.Placement < len(all) {
		return all[r.Placement].Require, all[r.Placement].Prefer
	}
	return nil, nil
}

// translate returns the placement in this gateway's queue with the classes of another gateway's
// request. It returns false if the queue has no such placement and the request requires classes.
func (s *Shared) translate(r *talk.Record) (placement int, ok bool) {
	placement, ok = s.queue.PlacementOf(dispatch.Placement{Require: r.Require, Prefer: r.Prefer})
	return placement, ok || len(r.Require) == 0 // preferred classes are optional
}
