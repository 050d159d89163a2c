// Package objective determines what the classes of a service serve within its objective: which
// learned and benchmarked curves apply, and when new ones come into force. It is pure.
package objective

import (
	"strconv"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
)

// minSamples is the minimum number of measured requests to trust the curve of a class.
const minSamples = 8

// Sizes holds values by class and by the slices of a replica; see learned.SlicesOf.
type Sizes[T any] map[string]map[string]T

func (s Sizes[T]) of(class string) map[string]T {
	if s[class] == nil {
		s[class] = map[string]T{}
	}
	return s[class]
}

// Known is the measured curves of a service, and its replicas.
type Known struct {
	Curves   Sizes[learned.Curve]
	Replicas Sizes[int]
	// Profiled is when each curve was measured that comes from a profile. The gateways learned the
	// others.
	Profiled Sizes[time.Time]
}

// KnownOf merges what gateways published of a service, its profiles, and the Consul meta of its
// serving replicas. Without replicas the curve in force stays, or the one with the most samples
// applies.
func KnownOf(now time.Time, rates []learned.Rates, profiles []learned.Profile, replicas []map[string]string) Known {
	k := Known{Sizes[learned.Curve]{}, Sizes[int]{}, Sizes[time.Time]{}}
	for _, meta := range replicas {
		have, _ := strconv.Atoi(meta[gpu.MetaSlices])
		of, _ := strconv.Atoi(meta[gpu.MetaTotal])
		k.Replicas.of(meta[gpu.MetaClass])[learned.SlicesOf(have, of)]++
	}
	for class, m := range learned.Known(now, rates, profiles, believed) {
		k.take(class, m)
	}
	for _, p := range learned.Newest(now, profiles) {
		if _, taken := k.Profiled[p.Class][p.Slices]; taken {
			k.Profiled[p.Class][p.Slices] = p.Measured
		}
	}
	return k
}

// believed reports whether gateways measured enough requests.
func believed(samples float64, _ time.Duration) bool { return samples >= minSamples }

// take adds the curves of a class. A size that was only benchmarked counts if replicas have this
// size, or if the gateways know no size of the class.
func (k Known) take(class string, m learned.Merged) {
	served := false
	for size, curve := range m.Tokens {
		served = served || m.SourceOf(size) == learned.FromGateways && curve.Samples >= minSamples && curve.Prompt > 0
	}
	for size, curve := range m.Tokens {
		profiled := m.SourceOf(size) == learned.FromProfile
		unused := profiled && served && k.Replicas[class][size] == 0
		if unused || !profiled && curve.Samples < minSamples || curve.Prompt <= 0 {
			continue
		}
		k.Curves.of(class)[size] = curve
		if profiled {
			k.Profiled.of(class)[size] = time.Time{} // KnownOf sets the date
		}
	}
}
