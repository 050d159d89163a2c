package dispatch

import "math"

// drag is how much slower one replica is than its kind, for example because its GPU is hot, shared
// or broken.
type drag struct {
	log float64 // mean logarithm of measured to expected time
	n   float64
	// factor is the result of compare, initially 1.
	factor float64
}

const (
	dragMemory = 64
	// A replica counts as faster or slower than its kind after dragSamples samples, if it differs
	// by dragLeast or more.
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

// compare computes how much slower each replica is than others of its kind. Predictions for the
// kind are multiplied by factor.
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
