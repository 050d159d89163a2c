package dispatch

import (
	"math"
	"time"
)

// fit is a least-squares estimate of the coefficients of a sum of terms, as multiples of the
// assumed values. It minimizes the error relative to the assumed time, so that short steps count as
// much as long ones and all samples count the same.
//
// If samples contain no information about a coefficient, a weak prior at the assumed value
// keeps it from drifting. Bounds limit what an adversary's samples can do to a coefficient.
type fit struct {
	terms  int
	memory float64 // samples after which an old one counts 1/e
	a      [3][3]float64
	b      [3]float64
	n      float64
	at     time.Time // of the last sample
	theta  [3]float64
	stale  bool
	ratio  float64 // mean logarithm of measured to assumed time
	drift  float64 // recent mean logarithm of measured to expected time
}

const (
	// priorWeight is the weight of the assumed values, in samples.
	priorWeight = 0.04
	// minCoefficient and maxCoefficient are the bounds of a coefficient, in multiples of the assumed
	// value.
	minCoefficient, maxCoefficient = 0.02, 50
	// maxSampleRatio limits one sample, in multiples of the expected time, once there are minSamples
	// samples.
	maxSampleRatio = 3
	minSamples     = 16
	// If about driftMemory samples differ from what was expected by driftLimit or more in one
	// direction, the estimate is wrong and is forgotten driftSpeedup times as fast. Otherwise bad samples
	// would count for as long as good ones.
	driftMemory  = 32
	driftLimit   = 1.2
	driftSpeedup = 16
	// idleDecay is the time in seconds after which the estimate for unused hardware counts 1/e, so
	// that a class that looks slow is tried again.
	idleDecay = 300
)

func newFit(terms int, memory float64) fit {
	return fit{terms: terms, memory: memory, theta: [3]float64{1, 1, 1}}
}

// add learns that the terms, each given in assumed seconds, together took y.
func (f *fit) add(terms [3]float64, y, weight float64, now time.Time) {
	var assumed float64
	for i := range f.terms {
		assumed += terms[i]
	}
	if !(y > 0) || !(assumed > 0) || math.IsInf(y+assumed, 0) {
		return
	}
	if f.n >= minSamples {
		expected := f.of(terms)
		y = min(max(y, expected/maxSampleRatio), expected*maxSampleRatio)
		f.drift += (math.Log(y/expected) - f.drift) * weight / driftMemory
	}
	y = min(max(y/assumed, minCoefficient), maxCoefficient)
	for i := range f.terms {
		terms[i] /= assumed
	}
	f.ratio += (math.Log(y) - f.ratio) * weight / min(f.n+1, f.memory)
	keep := 1 - weight/f.memory
	if math.Abs(f.drift) > math.Log(driftLimit) {
		keep = 1 - weight/max(f.memory/driftSpeedup, minSamples)
	}
	for i := range f.terms {
		for j := range f.terms {
			f.a[i][j] = f.a[i][j]*keep + weight*terms[i]*terms[j]
		}
		f.b[i] = f.b[i]*keep + weight*terms[i]*y
	}
	f.n = f.n*keep + weight
	f.at, f.stale = now, true
}

func (f *fit) of(terms [3]float64) float64 {
	var sum float64
	for i := range f.terms {
		sum += terms[i] * f.theta[i]
	}
	return sum
}

// solve computes the coefficients, within their bounds, by coordinate descent.
func (f *fit) solve() {
	if !f.stale {
		return
	}
	f.stale = false
	for range 32 {
		for i := range f.terms {
			rest := f.b[i] + priorWeight
			for j := range f.terms {
				if j != i {
					rest -= f.a[i][j] * f.theta[j]
				}
			}
			f.theta[i] = min(max(rest/(f.a[i][i]+priorWeight), minCoefficient), maxCoefficient)
		}
	}
}

// now returns the coefficients at a time. Without new samples they return towards scale.
func (f *fit) now(now time.Time, scale float64) [3]float64 {
	f.solve()
	out := f.theta
	confidence := decay(now.Sub(f.at).Seconds(), idleDecay)
	if f.n == 0 {
		confidence = 0
	}
	for i := range f.terms {
		out[i] = scale * math.Pow(out[i]/scale, confidence)
	}
	return out
}

// scale returns how many times longer than assumed other kinds take by their samples: a model that
// is larger than assumed is slower on all of them. which returns a kind's fit and the logarithm of
// the same ratio by earlier measurements. If there are earlier measurements of the kind itself,
// they count unchanged.
func scale(kinds []*kind, of *kind, which func(*kind) (*fit, float64)) float64 {
	if of.prior.known {
		return 1
	}
	var sum, n float64
	for _, k := range kinds {
		if f, prior := which(k); k != of && (f.n >= minSamples || k.prior.known) {
			sum += f.ratio + prior
			n++
		}
	}
	if n == 0 {
		return 1
	}
	return math.Exp(sum / n)
}
