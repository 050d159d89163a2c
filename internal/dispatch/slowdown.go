package dispatch

import "math"

// slowdown is how much slower one replica is than its kind, for example because its GPU is hot, shared
// or broken.
type slowdown struct {
	log float64 // mean logarithm of measured to expected time
	n   float64
	// factor is the result of compare, initially 1.
	factor float64
}

const (
	slowdownMemory = 64
	// A replica counts as faster or slower than its kind after slowdownSamples samples, if it differs
	// by minSlowdown or more.
	slowdownSamples = 32
	minSlowdown     = 1.4
)

func (d *slowdown) add(ratio, weight float64) {
	if !(ratio > 0) {
		return
	}
	d.n = min(d.n+weight, slowdownMemory)
	d.log += (math.Log(min(max(ratio, 1.0/8), 8)) - d.log) * weight / max(d.n, 1)
}

// compare computes how much slower each replica is than others of its kind. Predictions for the
// kind are multiplied by factor.
func (f *fleet) compare() {
	for _, k := range f.kinds {
		k.slowdownSum, k.slowdownCount = 0, 0
	}
	for _, s := range f.all {
		if s.slowdown.n >= slowdownSamples {
			s.tier.kind.slowdownSum += s.slowdown.log
			s.tier.kind.slowdownCount++
		}
	}
	for _, s := range f.all {
		k := s.tier.kind
		s.slowdown.factor = 1
		if s.slowdown.n < slowdownSamples {
			continue
		}
		if difference := s.slowdown.log - k.slowdownSum/k.slowdownCount; math.Abs(difference) > math.Log(minSlowdown) {
			s.slowdown.factor = math.Exp(difference)
		}
	}
}
