// Package quantile counts times so that their quantiles can be read later, also of
// several gateways together. It is DDSketch (Masson and others, VLDB 2019), by DataDog's
// library, with one accuracy for all programs.
package quantile

import (
	"fmt"
	"math"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// Accuracy is by which part of itself a quantile may be off.
const Accuracy = 0.02

// least and most bound the values, in seconds, and with them the size of a sketch: 700
// bins.
const least, most = 1e-6, 1e6

// Sketch counts values in seconds. The zero value is empty and ready for use.
type Sketch struct{ d *ddsketch.DDSketch }

var scale = func() mapping.IndexMapping {
	m, err := mapping.NewLogarithmicMapping(Accuracy)
	if err != nil {
		panic(err) // the accuracy is a constant
	}
	return m
}()

func (s *Sketch) sketch() *ddsketch.DDSketch {
	if s.d == nil {
		s.d = ddsketch.NewDDSketchFromStoreProvider(scale, store.SparseStoreConstructor)
	}
	return s.d
}

// Add counts a value.
func (s *Sketch) Add(seconds float64) {
	if !math.IsNaN(seconds) {
		_ = s.sketch().Add(min(max(seconds, least), most)) // fails only beyond these bounds
	}
}

// Merge counts what another sketch counted.
func (s *Sketch) Merge(o *Sketch) {
	if o != nil && o.d != nil {
		_ = s.sketch().MergeWith(o.d) // fails only for another accuracy, which Decode refuses
	}
}

// Count is how many values were counted.
func (s *Sketch) Count() float64 {
	if s.d == nil {
		return 0
	}
	return s.d.GetCount()
}

// At returns the value that a share q of the counted ones does not exceed, 0 where
// nothing was counted.
func (s *Sketch) At(q float64) float64 {
	if s.Count() == 0 {
		return 0
	}
	v, err := s.d.GetValueAtQuantile(q)
	if err != nil || math.IsNaN(v) {
		return 0
	}
	return min(max(v, 0), most) // one that was decoded may have any bins
}

// Above is how many of the counted values exceed one, by the bounds of their bins.
func (s *Sketch) Above(seconds float64) float64 {
	if s.d == nil {
		return 0
	}
	above := 0.0
	s.d.ForEach(func(value, count float64) bool {
		if value > seconds {
			above += count
		}
		return false
	})
	return above
}

// Encode returns the sketch in DataDog's encoding; nil where nothing was counted.
func (s *Sketch) Encode() []byte {
	if s.Count() == 0 {
		return nil
	}
	var b []byte
	s.d.Encode(&b, false)
	return b
}

// Decode reads what Encode returned. It fails for other bytes, and for a sketch of
// another accuracy.
func Decode(b []byte) (*Sketch, error) {
	if len(b) == 0 {
		return &Sketch{}, nil
	}
	d, err := ddsketch.DecodeDDSketch(b, store.SparseStoreConstructor, nil)
	if err != nil {
		return nil, fmt.Errorf("not a sketch: %w", err)
	}
	if !d.Equals(scale) {
		return nil, fmt.Errorf("its accuracy is %g, not %g", d.RelativeAccuracy(), Accuracy)
	}
	return &Sketch{d}, nil
}
