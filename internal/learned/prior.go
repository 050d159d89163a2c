package learned

import (
	"cmp"
	"maps"
	"slices"

	"aliquot.example/internal/gpu"
)

// Prior derives a curve for a class that nobody has measured from the hardware table: it scales the
// best-known curve of another class, prefill by the arithmetic rates of both, and the steps by their
// memory bandwidths. of is the fraction of a GPU of the class that a replica
// has, or its number of GPUs. The size of its cache is unknown. known is curves by class and
// slices. ok is false if no curve is known or the table lacks one of the classes.
func Prior(class string, of float64, known map[string]map[string]Curve) (c Curve, ok bool) {
	to, ok := gpu.Rated(class)
	if !ok || !(of > 0) {
		return Curve{}, false
	}
	ok = false
	for _, name := range slices.Sorted(maps.Keys(known)) {
		from, inTable := gpu.Rated(name)
		if !inTable || name == class {
			continue
		}
		for _, size := range slices.SortedFunc(maps.Keys(known[name]), cmp.Compare[string]) {
			if k := known[name][size]; k.Samples > c.Samples && part(size) > 0 {
				parts := part(size) / of
				c, ok = k.scaled(parts*from.TFLOPS/to.TFLOPS, parts*from.Bandwidth/to.Bandwidth), true
			}
		}
	}
	c.Samples = 0
	return c, ok
}

// scaled returns the curve on other hardware, where prefill and a step take so many times as long.
func (c Curve) scaled(prefill, step float64) Curve {
	c.Start, c.Prefill = c.Start*prefill, c.Prefill*prefill
	c.A, c.C = c.A*step, c.C*step
	c.KV, c.Rate = 0, 0
	return c
}
