package dispatch

import "slices"

// maxRatio limits how far a declared cost may differ from the median one.
const maxRatio = 64

// units converts declared costs to multiples of the median of recent ones:
// a client that declares nonsense changes neither the unit nor what is learned in it.
type units struct {
	ring   [63]float64
	n      int // total number so far
	median float64
}

// of returns the value that a declared cost counts as.
func (u *units) of(declared float64) float64 {
	if declared <= 0 && u.n == 0 {
		return 1 // no request declares a cost
	}
	if !(declared > 0) {
		declared = 1
	}
	u.ring[u.n%len(u.ring)] = declared
	u.n++
	sorted := u.ring
	seen := sorted[:min(u.n, len(sorted))]
	slices.Sort(seen)
	u.median = seen[len(seen)/2]
	return min(max(declared/u.median, 1.0/maxRatio), maxRatio)
}
