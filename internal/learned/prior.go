package learned

import (
	"cmp"
	"maps"
	"slices"

	"aliquot.example/internal/gpu"
)

// Prior is what the hardware table makes of a class that nobody has measured: the curve of the
// other class of which most is known, with prompts read in proportion to the arithmetic of both
// and steps made in proportion to their memory's bandwidth. of is which part of a GPU of the
// class a replica has, or how many. The size of its cache is not known. known is curves by class
// and slices; ok is false where no curve is known, or the table lacks one of the classes.
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

// scaled is a curve on other hardware, which takes so many times as long to read a prompt and
// to make a step.
func (c Curve) scaled(reading, stepping float64) Curve {
	c.Start, c.Prefill = c.Start*reading, c.Prefill*reading
	c.A, c.C = c.A*stepping, c.C*stepping
	c.KV, c.Rate = 0, 0
	return c
}
