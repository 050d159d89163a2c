package profile

import "math"

// Line is a sum of terms fitted to measurements by least squares of the relative error, with no
// coefficient below 0.
type Line struct {
	// Errors are the standard errors of Coefficients, 0 for a coefficient at its bound.
	Coefficients, Errors []float64
	// Off is the deviation of each measurement from the line, relative to the line.
	Off []float64
}

// Mean returns the mean absolute deviation of the measurements from the line, relative to it.
func (l Line) Mean() float64 {
	var sum float64
	for _, o := range l.Off {
		sum += math.Abs(o) / float64(len(l.Off))
	}
	return sum
}

// Worst returns the index of the measurement farthest from the line, or -1 if there is none.
func (l Line) Worst() int {
	worst := -1
	for i, o := range l.Off {
		if worst < 0 || math.Abs(o) > math.Abs(l.Off[worst]) {
			worst = i
		}
	}
	return worst
}

// fitted fits a line to rows of terms and their measured sums, all above 0. It returns false if
// there are fewer measurements than terms.
func fitted(rows [][]float64, y []float64) (Line, bool) {
	if len(rows) == 0 || len(rows) < len(rows[0]) {
		return Line{}, false
	}
	terms := len(rows[0])
	best, least := Line{}, math.Inf(1)
	// There are few enough terms to try every set of nonzero coefficients.
	for set := 1; set < 1<<terms; set++ {
		l, rss, ok := among(rows, y, set)
		if ok && rss < least*(1-1e-12) {
			best, least = l, rss
		}
	}
	if math.IsInf(least, 1) {
		return Line{}, false
	}
	for i, row := range rows {
		var sum float64
		for j := range row {
			sum += best.Coefficients[j] * row[j]
		}
		best.Off = append(best.Off, y[i]/sum-1)
	}
	return best, true
}

// among fits only the terms of a set. It fails if a coefficient would be negative, or if a term is
// linearly dependent on the others.
func among(rows [][]float64, y []float64, set int) (l Line, rss float64, ok bool) {
	var used []int
	for j := range rows[0] {
		if set>>j&1 == 1 {
			used = append(used, j)
		}
	}
	x, size, ok := scaled(rows, y, used)
	if !ok {
		return Line{}, 0, false
	}
	inverse, ok := inverted(x)
	if !ok {
		return Line{}, 0, false
	}
	l = Line{Coefficients: make([]float64, len(rows[0])), Errors: make([]float64, len(rows[0]))}
	theta := make([]float64, len(used))
	for k := range used {
		for m := range used {
			for i := range x {
				theta[k] += inverse[k][m] * x[i][m]
			}
		}
		if !(theta[k] >= 0) {
			return Line{}, 0, false
		}
	}
	for i := range x {
		off := 1.0
		for k := range used {
			off -= theta[k] * x[i][k]
		}
		rss += off * off
	}
	free := max(1, len(rows)-len(used))
	for k, j := range used {
		l.Coefficients[j] = theta[k] / size[k]
		l.Errors[j] = math.Sqrt(max(0, inverse[k][k])*rss/float64(free)) / size[k]
	}
	return l, rss, true
}

// scaled returns the used terms of all rows divided by the measurements, and normalized by the size
// of each term, so that all are near 1. It fails if a term is 0 in every row.
func scaled(rows [][]float64, y []float64, used []int) (x [][]float64, size []float64, ok bool) {
	size = make([]float64, len(used))
	x = make([][]float64, len(rows))
	for i, row := range rows {
		x[i] = make([]float64, len(used))
		for k, j := range used {
			x[i][k] = row[j] / y[i]
			size[k] += x[i][k] * x[i][k]
		}
	}
	for k := range size {
		if size[k] = math.Sqrt(size[k]); !(size[k] > 0) {
			return nil, nil, false
		}
		for i := range x {
			x[i][k] /= size[k]
		}
	}
	return x, size, true
}

// inverted returns the inverse of xᵀx by Gauss-Jordan elimination.
func inverted(x [][]float64) ([][]float64, bool) {
	n := len(x[0])
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, 2*n)
		a[i][n+i] = 1
		for j := range n {
			for _, row := range x {
				a[i][j] += row[i] * row[j]
			}
		}
	}
	for i := range n {
		pivot := i
		for k := i + 1; k < n; k++ {
			if math.Abs(a[k][i]) > math.Abs(a[pivot][i]) {
				pivot = k
			}
		}
		a[i], a[pivot] = a[pivot], a[i]
		if math.Abs(a[i][i]) < 1e-9 {
			return nil, false
		}
		for j, by := 0, a[i][i]; j < 2*n; j++ {
			a[i][j] /= by
		}
		for k := range n {
			if by := a[k][i]; k != i {
				for j := range a[k] {
					a[k][j] -= by * a[i][j]
				}
			}
		}
	}
	for i := range a {
		a[i] = a[i][n:]
	}
	return a, true
}
