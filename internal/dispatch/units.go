package dispatch

import "slices"

// extent bounds how far one declared cost counts from the usual one.
const extent = 64

// units turns declared costs into multiples of the usual one, the median of the
// last ones: a client that declares nonsense moves neither the unit nor what is
// learned in it.
type units struct {
	ring  [63]float64
	n     int // ever
	usual float64
}

// of returns what a declared cost counts as.
func (u *units) of(declared float64) float64 {
	if declared <= 0 && u.n == 0 {
		return 1 // nobody declares
	}
	if !(declared > 0) {
		declared = 1
	}
	u.ring[u.n%len(u.ring)] = declared
	u.n++
	sorted := u.ring
	seen := sorted[:min(u.n, len(sorted))]
	slices.Sort(seen)
	u.usual = seen[len(seen)/2]
	return min(max(declared/u.usual, 1.0/extent), extent)
}
