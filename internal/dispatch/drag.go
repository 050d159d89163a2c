package dispatch

import "math"

// drag is how much slower one replica is than its kind: a GPU that is hot, shared
// or broken.
type drag struct {
	log float64 // mean logarithm of what was taken to what was expected
	n   float64
	// factor is what compare found, 1 at first.
	factor float64
}

const (
	dragMemory = 64
	// A replica counts as faster or slower than its kind from dragSamples on, where it
	// differs by dragLeast or more.
	dragSamples = 32
	dragLeast   = 1.4
)

func (d *drag) add(ratio, weight float64) {
	if !(ratio > 0) {
		return
	}
	d.n = min(d.n+weight, dragMemory)
	d.log += (math.Log(min(max(ratio, 1.0/8), 8)) - d.log) * weight / max(d.n, 1)
}

// compare finds how much slower each replica is than those of its kind: factor
// multiplies what is predicted for the kind.
func (f *fleet) compare() {
	for _, k := range f.kinds {
		k.drags, k.dragged = 0, 0
	}
	for _, s := range f.all {
		if s.drag.n >= dragSamples {
			s.tier.kind.drags += s.drag.log
			s.tier.kind.dragged++
		}
	}
	for _, s := range f.all {
		k := s.tier.kind
		s.drag.factor = 1
		if s.drag.n < dragSamples {
			continue
		}
		if apart := s.drag.log - k.drags/k.dragged; math.Abs(apart) > math.Log(dragLeast) {
			s.drag.factor = math.Exp(apart)
		}
	}
}
