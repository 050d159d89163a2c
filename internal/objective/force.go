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
	// newer is how many times as many must have taught another curve of a class than the one
	// in force: of two that are about as well known neither is better.
	newer = 2
	// loosened is how many times the objective a class may take with one request before it
	// counts as one that misses it, where it did not.
	loosened = 1.15
)

// Force is what the classes of a service serve within its objective, by class. What is learned
// changes a little all the time, and each change makes another mix the cheapest: it comes into
// force when it has moved.
type Force struct {
	serving map[string]scale.Serving
	// size is that of the replicas whose curve it is, by class.
	size map[string]string
	// assumed are the classes of which nothing was measured: serving is by their prior.
	assumed map[string]bool
	// profiled is when the profile was measured whose curve it is, by class; gateways learned
	// the curves of the other classes.
	profiled map[string]time.Time
	// tokens is those of a mean request, 0 where no curve is known.
	tokens float64
	// since is when it came into force, the zero time where nothing is. alone says that it is
	// of one class: nothing replaces another.
	since time.Time
	alone bool
}

// Age is for how long it has been in force, scale.Always where no class can replace another.
func (f Force) Age(now time.Time) time.Duration {
	if f.alone || f.since.IsZero() {
		return scale.Always
	}
	return max(0, now.Sub(f.since))
}

// Equal reports whether classes serve the same by two of them.
func (f Force) Equal(o Force) bool {
	return f.tokens == o.tokens && maps.Equal(f.serving, o.serving) && maps.Equal(f.assumed, o.assumed) &&
		maps.EqualFunc(f.profiled, o.profiled, time.Time.Equal)
}

// Since is when it came into force, the zero time where nothing is.
func (f Force) Since() time.Time { return f.since }

// Measured reports whether a curve of some class is in force.
func (f Force) Measured() bool { return f.tokens > 0 }

// Next is what is in force after a look at what is known: what was, until something has moved.
// The zero Force has nothing in force yet.
func (f Force) Next(c *scale.Config, k Known, now time.Time) Force {
	if f.since.After(now) { // the clock was set back: nothing may shrink for a cold start, not until then
		f.since = now
	}
	out := Force{
		serving: maps.Clone(f.serving), size: maps.Clone(f.size), assumed: map[string]bool{},
		profiled: maps.Clone(f.profiled), tokens: f.tokens, since: now, alone: len(c.Classes) == 1,
	}
	if f.serving == nil {
		out.serving, out.size, out.profiled = map[string]scale.Serving{}, map[string]string{}, map[string]time.Time{}
	}
	other := false
	for _, class := range c.Classes {
		curves, replicas, profiled := k.Curves[class.Name], k.Replicas[class.Name], k.Profiled[class.Name]
		if curves == nil && len(c.Classes) == 1 { // a policy with slots does not name its class
			curves, replicas, profiled = flat(k.Curves), flat(k.Replicas), flat(k.Profiled)
		}
		size := choose(curves, replicas, f.size[class.Name])
		if size == "" {
			if f.size[class.Name] == "" { // else an old curve is nearer to the truth
				out.assume(class.Name, c.Objective, k, f.assumed[class.Name])
			}
			continue
		}
		curve := curves[size]
		other = other || size != f.size[class.Name]
		out.size[class.Name] = size
		out.from(class.Name, profiled, size)
		out.serving[class.Name] = within(curve, c.Objective, f.size[class.Name] != "" && f.serving[class.Name].Most > 0)
		out.tokens = max(1, curve.Prompt+curve.Output)
	}
	other = other || !maps.Equal(f.assumed, out.assumed)
	if other || scale.ServingMoved(f.serving, out.serving) || math.Abs(out.tokens-f.tokens) > 0.1*f.tokens {
		return out
	}
	if !maps.EqualFunc(f.profiled, out.profiled, time.Time.Equal) {
		out.since = f.since // another source, which says about the same
		return out
	}
	return f
}

// from remembers when the curve of a class was benchmarked, where it is that of a profile.
func (f Force) from(class string, profiled map[string]time.Time, size string) {
	if measured, ok := profiled[size]; ok {
		f.profiled[class] = measured
	} else {
		delete(f.profiled, class)
	}
}

// assume takes what a class serves from its prior, if there is one. What was assumed before
// stays while nothing is known, as while Consul is away.
func (f Force) assume(class string, objective *scale.Objective, k Known, before bool) {
	if curve, ok := k.prior(class); ok {
		f.serving[class], f.assumed[class] = within(curve, objective, false), true
	} else if before {
		f.assumed[class] = true
	} else {
		delete(f.serving, class)
	}
}

// prior is what is assumed of a class that has neither served nor been benchmarked: the
// hardware table's, for replicas of the size that most of the class have, or else for whole GPUs.
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

// flat is all sizes of all classes.
func flat[T any](s Sizes[T]) map[string]T {
	out := map[string]T{}
	for class, of := range s {
		for size, v := range of {
			out[class+" "+size] = v
		}
	}
	return out
}

// choose returns the size of replicas whose curve counts, "" where none is known: that of most
// replicas, then the one in force unless another is far better known, then the one that most
// requests taught.
func choose(curves map[string]learned.Curve, replicas map[string]int, inForce string) string {
	taught := func(size string) float64 {
		if size == inForce {
			return newer * curves[size].Samples
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

// within is what a replica serves within the objective. A class that met it with one request
// is not left out for missing it by little.
func within(curve learned.Curve, objective *scale.Objective, met bool) scale.Serving {
	o := learned.Objective{TTFT: objective.TTFT.Seconds(), TPOT: objective.TPOT.Seconds(), E2E: objective.E2E.Seconds()}
	l := curve.Within(o, objective.Quantile)
	loose := learned.Objective{TTFT: loosened * o.TTFT, TPOT: loosened * o.TPOT, E2E: loosened * o.E2E}
	if met && l.Most == 0 && curve.Within(loose, objective.Quantile).Most > 0 {
		l.Most = 1
		l.Rate, l.First, l.Token = curve.At(1)
	}
	return scale.Serving(l)
}
