// Package objective says what the classes of a service serve within its objective: which of the
// curves that were learned and benchmarked count, and when others come into force. It is pure.
package objective

import (
	"strconv"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
)

// enough requests of a class must have been measured for its curve to be believed.
const enough = 8

// Sizes are curves, or numbers of replicas, by class and by the slices of the GPU that a
// replica has, see learned.SlicesOf.
type Sizes[T any] map[string]map[string]T

func (s Sizes[T]) of(class string) map[string]T {
	if s[class] == nil {
		s[class] = map[string]T{}
	}
	return s[class]
}

// Known is how long replicas take, and how many replicas there are.
type Known struct {
	Curves   Sizes[learned.Curve]
	Replicas Sizes[int]
	// Profiled is when the curves of Curves were measured that come from a profile. Gateways
	// learned the others.
	Profiled Sizes[time.Time]
}

// KnownOf makes one of what gateways published of a service, of its profiles, and of the meta in
// Consul of its replicas that serve. Without replicas the curve in force stays, or the one that
// most requests taught counts.
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

// believed trusts what gateways published of enough requests.
func believed(samples float64, _ time.Duration) bool { return samples >= enough }

// take adds the curves of a class. A size that was only benchmarked counts where replicas
// have it, or where the gateways know no size of the class.
func (k Known) take(class string, m learned.Merged) {
	served := false
	for size, curve := range m.Tokens {
		served = served || m.SourceOf(size) == learned.FromGateways && curve.Samples >= enough && curve.Prompt > 0
	}
	for size, curve := range m.Tokens {
		profiled := m.SourceOf(size) == learned.FromProfile
		unused := profiled && served && k.Replicas[class][size] == 0
		if unused || !profiled && curve.Samples < enough || curve.Prompt <= 0 {
			continue
		}
		k.Curves.of(class)[size] = curve
		if profiled {
			k.Profiled.of(class)[size] = time.Time{} // KnownOf knows the date
		}
	}
}
