package objective

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

const (
	// replaceRatio is how many times as many samples another curve of a class must have to replace the one
	// in force. Between two curves of similar certainty neither is better.
	replaceRatio = 2
	// metTolerance is the tolerance of a class that met the objective before: it still counts as
	// meeting it if a single request takes up to this multiple of the limits.
	metTolerance = 1.15
)

// Force is what the classes of a service serve within its objective, by class. Learned values
// change slightly all the time, and each change can make a different mix the cheapest. New values
// therefore come into force only after a significant change.
type Force struct {
	serving map[string]scale.Serving
	// size is the size of the replicas that the curve in force belongs to, by class.
	size map[string]string
	// assumed are the classes that nobody has measured. Their serving follows from a prior.
	assumed map[string]bool
	// profiled is when the profile of a class's curve was measured. Classes whose curve the
	// gateways learned are not in it.
	profiled map[string]time.Time
	// tokens is the number of tokens of a mean request, 0 if no curve is known.
	tokens float64
	// since is when the values came into force, the zero time if none are. alone means that the
	// service has one class, so no class can replace another.
	since     time.Time
	onlyClass bool
}

// Age returns how long the values have been in force. It is scale.Always if there is only one
// class, or if none are in force.
func (f Force) Age(now time.Time) time.Duration {
	if f.onlyClass || f.since.IsZero() {
		return scale.Always
	}
	return max(0, now.Sub(f.since))
}

// Equal reports whether the classes serve the same in both.
func (f Force) Equal(o Force) bool {
	return f.tokens == o.tokens && maps.Equal(f.serving, o.serving) && maps.Equal(f.assumed, o.assumed) &&
		maps.EqualFunc(f.profiled, o.profiled, time.Time.Equal)
}

// Since returns when the values came into force, or the zero time if none are.
func (f Force) Since() time.Time { return f.since }

// Measured reports whether the curve of any class is in force.
func (f Force) Measured() bool { return f.tokens > 0 }

// Next returns the values in force after a look at what is known. They stay the same until
// something has moved. The zero Force has nothing in force.
func (f Force) Next(c *scale.Config, k Known, now time.Time) Force {
	if f.since.After(now) { // the clock was set back: hold counts for one cold start from now, not until the old time
		f.since = now
	}
	out := Force{
		serving: maps.Clone(f.serving), size: maps.Clone(f.size), assumed: map[string]bool{},
		profiled: maps.Clone(f.profiled), tokens: f.tokens, since: now, onlyClass: len(c.Classes) == 1,
	}
	if f.serving == nil {
		out.serving, out.size, out.profiled = map[string]scale.Serving{}, map[string]string{}, map[string]time.Time{}
	}
	other := false
	for _, class := range c.Classes {
		curves, replicas, profiled := k.Curves[class.Name], k.Replicas[class.Name], k.Profiled[class.Name]
		if curves == nil && len(c.Classes) == 1 { // the class of a policy with slots has no name in the curves
			curves, replicas, profiled = flat(k.Curves), flat(k.Replicas), flat(k.Profiled)
		}
		size := choose(curves, replicas, f.size[class.Name])
		if size == "" {
			if f.size[class.Name] == "" { // otherwise an old curve is better than a prior
				out.assume(class.Name, c.Objective, k, f.assumed[class.Name])
			}
			continue
		}
		curve := curves[size]
		other = other || size != f.size[class.Name]
		out.size[class.Name] = size
		out.from(class.Name, profiled, size)
		met := f.size[class.Name] != "" && f.serving[class.Name].Concurrency > 0
		out.serving[class.Name] = within(curve, c.Objective, met)
		out.tokens = max(1, curve.Prompt+curve.Output)
	}
	other = other || !maps.Equal(f.assumed, out.assumed)
	if other || scale.ServingMoved(f.serving, out.serving) || math.Abs(out.tokens-f.tokens) > 0.1*f.tokens {
		return out
	}
	if !maps.EqualFunc(f.profiled, out.profiled, time.Time.Equal) {
		out.since = f.since // only the source changed, with nearly the same values
		return out
	}
	return f
}

// from records when the curve of a class was benchmarked, if it comes from a profile.
func (f Force) from(class string, profiled map[string]time.Time, size string) {
	if measured, ok := profiled[size]; ok {
		f.profiled[class] = measured
	} else {
		delete(f.profiled, class)
	}
}

// assume sets what a class serves from its prior, if there is one. An earlier assumption stays
// while nothing is known, for example while Consul is away.
func (f Force) assume(class string, objective *scale.Objective, k Known, before bool) {
	if curve, ok := k.prior(class); ok {
		f.serving[class], f.assumed[class] = within(curve, objective, false), true
	} else if before {
		f.assumed[class] = true
	} else {
		delete(f.serving, class)
	}
}

// prior returns the curve to assume for a class that has neither served nor been benchmarked. It
// follows from the hardware table, for the most common replica size of the class, or for whole
// GPUs.
func (k Known) prior(class string) (learned.Curve, bool) {
	slices, total, most := 1, 1, 0
	for _, size := range sorted(k.Replicas[class]) {
		if n := k.Replicas[class][size]; n > most {
			if s, t, ok := learned.ParseSlices(size); ok {
				slices, total, most = s, t, n
			}
		}
	}
	return learned.Prior(class, float64(slices)/float64(total), k.Curves)
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// flat merges all sizes of all classes into one map.
func flat[T any](s Sizes[T]) map[string]T {
	out := map[string]T{}
	for class, of := range s {
		for size, v := range of {
			out[class+" "+size] = v
		}
	}
	return out
}

// choose returns the replica size whose curve applies, "" if none is known: the size of most
// replicas; among equals, the one with the most samples, where the samples of the one in force
// count newer times.
func choose(curves map[string]learned.Curve, replicas map[string]int, inForce string) string {
	taught := func(size string) float64 {
		if size == inForce {
			return replaceRatio * curves[size].Samples
		}
		return curves[size].Samples
	}
	sorted := slices.SortedFunc(maps.Keys(curves), func(a, b string) int {
		return cmp.Or(cmp.Compare(replicas[b], replicas[a]), cmp.Compare(taught(b), taught(a)), strings.Compare(a, b))
	})
	if len(sorted) == 0 {
		return ""
	}
	return sorted[0]
}

// within returns what a replica serves within the objective. A class that met it with one request
// is not excluded for missing it by a little.
func within(curve learned.Curve, objective *scale.Objective, met bool) scale.Serving {
	o := learned.Objective{TTFT: objective.TTFT.Seconds(), TPOT: objective.TPOT.Seconds(), E2E: objective.E2E.Seconds()}
	l := curve.Within(o, objective.Quantile)
	loose := learned.Objective{TTFT: metTolerance * o.TTFT, TPOT: metTolerance * o.TPOT, E2E: metTolerance * o.E2E}
	if met && l.Concurrency == 0 && curve.Within(loose, objective.Quantile).Concurrency > 0 {
		l.Concurrency = 1
		l.Rate, l.First, l.Token = curve.At(1)
	}
	return scale.Serving(l)
}
