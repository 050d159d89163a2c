package line

import (
	"fmt"
	"hash/fnv"
	"slices"

	"aliquot/gateway/talk"
	"aliquot/internal/dispatch"
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

// translate finds the placement of this gateway that has the classes of another one's
// request, or requires none but those that it requires. It returns false where there is
// none: then the request waits at its gateway for an owner that knows its rule.
func (s *Shared) translate(r *talk.Record) (placement int, known bool) {
	all, given := s.options.Policy.Placements, r.Request.Placement
	alike := func(p dispatch.Placement) bool {
		return slices.Equal(p.Require, r.Require) && slices.Equal(p.Prefer, r.Prefer)
	}
	if len(r.Require)+len(r.Prefer) == 0 {
		return 0, true
	}
	if given > 0 && given < len(all) && alike(all[given]) {
		return given, true
	}
	at := slices.IndexFunc(all, alike)
	if at < 0 {
		at = slices.IndexFunc(all, func(p dispatch.Placement) bool {
			return len(p.Require) > 0 && !slices.ContainsFunc(p.Require, func(c string) bool { return !slices.Contains(r.Require, c) })
		})
	}
	return max(at, 0), at >= 0 || len(r.Require) == 0
}
