// Package quantile counts durations for quantiles, also across several gateways. It uses DataDog's
// DDSketch (Masson and others, VLDB 2019) with one accuracy for all programs.
package quantile

import (
	"fmt"
	"math"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// Accuracy is the largest relative error of a quantile.
const Accuracy = 0.02

// minValue and maxValue limit the values, in seconds, and thus the size of a sketch to 700 bins.
const minValue, maxValue = 1e-6, 1e6

// Sketch counts values in seconds. The zero value is an empty sketch.
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
		_ = s.sketch().Add(min(max(seconds, minValue), maxValue)) // fails only beyond these limits
	}
}

// Merge adds the values of another sketch.
func (s *Sketch) Merge(o *Sketch) {
	if o != nil && o.d != nil {
		_ = s.sketch().MergeWith(o.d) // fails only for another accuracy, which Decode rejects
	}
}

// Count returns the number of values.
func (s *Sketch) Count() float64 {
	if s.d == nil {
		return 0
	}
	return s.d.GetCount()
}

// At returns the quantile q of the values, 0 for an empty sketch.
func (s *Sketch) At(q float64) float64 {
	if s.Count() == 0 {
		return 0
	}
	v, err := s.d.GetValueAtQuantile(q)
	if err != nil || math.IsNaN(v) {
		return 0
	}
	return min(max(v, 0), maxValue) // a decoded sketch may have any bins
}

// Above returns the number of values above seconds, to the accuracy of the bins.
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

// Encode returns the sketch in DataDog's encoding, nil for an empty sketch.
func (s *Sketch) Encode() []byte {
	if s.Count() == 0 {
		return nil
	}
	var b []byte
	s.d.Encode(&b, false)
	return b
}

// Decode decodes a sketch. It returns an error for invalid bytes, and for a sketch with another
// accuracy.
func Decode(b []byte) (*Sketch, error) {
	if len(b) == 0 {
		return &Sketch{}, nil
	}
	d, err := ddsketch.DecodeDDSketch(b, store.SparseStoreConstructor, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot decode a sketch: %w", err)
	}
	if !d.Equals(scale) {
		return nil, fmt.Errorf("the accuracy of the sketch is %g: want %g", d.RelativeAccuracy(), Accuracy)
	}
	return &Sketch{d}, nil
}
