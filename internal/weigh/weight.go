package weigh

import (
	"fmt"
	"math"
	"slices"
	"time"

	"aliquot.example/internal/gpu"
)

// Source is where a weight comes from, best first.
type Source string

// The sources of a weight in order of precedence.
const (
	FromLearned Source = "learned" // measured by the gateways
	FromBench   Source = "bench"   // measured by aliquot bench
	FromProfile Source = "profile" // the operator's file
	FromTable   Source = "table"   // the curated hardware table
	FromFormula Source = "formula" // bandwidth and TFLOPS, corrected by architecture
	FromMean    Source = "mean"    // nothing is known: the mean of the service's other groups
)

// Weight is the expected rate of one instance of a group, relative to a whole
// H100 SXM.
type Weight struct {
	Value  float64
	Source Source
	// Age and Confidence (0 to 1) tell of learned weights how old and how certain.
	Age        time.Duration
	Confidence float64
	// Tokens is how many tokens a second one instance serves, as measured; 0 where that is
	// not known or the service is no language model.
	Tokens float64
	// Note says why a better source was ignored, "" when none was.
	Note string
}

// Spec is what a formula needs of a GPU that is not in the table.
type Spec struct {
	Bandwidth    float64 // GB/s
	TFLOPS       float64 // dense FP16 or BF16
	Architecture string  // see Efficiency
}

// Profile is the operator's word on a class: a weight, or figures for the formula.
type Profile struct {
	Weight float64 // 0 when only Spec is given
	Spec   Spec
}

// Rate is what the gateways have measured of a class.
type Rate struct {
	// Replica is what a fully busy replica serves in a second, in one unit for all classes
	// of a service: tokens of a language model, requests of others.
	Replica float64
	Samples float64
	Updated time.Time
	// Tokens says that the unit is tokens; Groups then has the rates of those groups of
	// the class, by name, that were measured apart.
	Tokens bool
	Groups map[string]Measured
	// Bench says that it was benchmarked. Its age does not matter here: the caller leaves
	// out what is too old.
	Bench bool
}

// Measured is a rate, how many samples it is from and whether it was benchmarked.
type Measured struct {
	Replica, Samples float64
	Bench            bool
}

// of returns what is known of a group, and whether it was measured apart.
func (r Rate) of(group string) (Rate, bool) {
	m, apart := r.Groups[group]
	if apart {
		r.Replica, r.Samples, r.Bench = m.Replica, m.Samples, m.Bench
	}
	return r, apart
}

// Trust bounds which learned rates are used.
type Trust struct {
	// MaxAge ends a rate's use; its confidence falls linearly to 0 until then.
	MaxAge time.Duration
	// HalfSamples is how many samples give confidence 1/2.
	HalfSamples float64
	// MinConfidence is the least at which a rate is used.
	MinConfidence float64
	// MaxFactor is how far a rate may differ from the other sources, after both are
	// brought to one scale; beyond it the rate is disbelieved.
	MaxFactor float64
}

// DefaultTrust uses rates for an hour, from about 20 fresh samples on, within a
// factor of 10 of what is known otherwise.
func DefaultTrust() Trust {
	return Trust{MaxAge: time.Hour, HalfSamples: 20, MinConfidence: 0.4, MaxFactor: 10}
}

// fresh falls linearly from 1 to 0 over MaxAge. A time to come is as doubtful as
// one gone by: one of the two clocks is wrong by as much.
func (t Trust) fresh(r Rate, now time.Time) float64 {
	return max(0, 1-float64(now.Sub(r.Updated).Abs())/float64(t.MaxAge))
}

func (t Trust) confidence(r Rate, now time.Time) (float64, time.Duration) {
	fresh := t.fresh(r, now)
	if r.Bench {
		fresh = 1
	}
	return fresh * r.Samples / (r.Samples + t.HalfSamples), now.Sub(r.Updated)
}

// Believes says whether a rate that gateways published is used.
func (t Trust) Believes(samples float64, age time.Duration) bool {
	c, _ := t.confidence(Rate{Samples: samples, Updated: time.Time{}}, time.Time{}.Add(age))
	return c >= t.MinConfidence
}

// Weights gives every group of a service its weight. Learned rates are absolute
// and the other sources relative, so rates are divided by their median ratio to
// what is known otherwise before both are used side by side.
//
// gone holds one instance, the last, for each group of which none is registered now.
// Hardware does not change while nothing runs on it, so rules and failover hold on.
func Weights(instances, gone []Instance, learned map[string]Rate, profiles map[string]Profile, trust Trust,
	now time.Time) map[string]Weight {
	out := map[string]Weight{}
	groups, claims, counts := gather(instances)
	remember(gone, groups, claims, counts)
	for name, g := range groups {
		out[name] = prior(g, claims[name], profiles[g.Class])
	}
	fillMean(out, groups)
	applyLearned(out, groups, counts, learned, trust, now)
	return out
}

// gather lists the groups with the median claim of their instances and how many
// there are.
func gather(instances []Instance) (map[string]Group, map[string]float64, map[string]int) {
	groups, all, counts := map[string]Group{}, map[string][]float64{}, map[string]int{}
	for _, in := range instances {
		name := in.Group.Name()
		groups[name] = in.Group
		counts[name]++
		if in.Weight > 0 {
			all[name] = append(all[name], in.Weight)
		}
	}
	claims := make(map[string]float64, len(all))
	for name, c := range all {
		claims[name] = median(c)
	}
	return groups, claims, counts
}

// remember adds the groups that are gone. They count only where nothing of their
// class is registered.
func remember(gone []Instance, groups map[string]Group, claims map[string]float64, counts map[string]int) {
	here := map[string]bool{}
	for _, g := range groups {
		here[g.Class] = true
	}
	for _, in := range gone {
		name := in.Group.Name()
		if _, registered := groups[name]; registered {
			continue
		}
		groups[name], claims[name] = in.Group, in.Weight
		if !here[in.Group.Class] {
			counts[name] = 1
		}
	}
}

// prior is the weight without measurement.
func prior(g Group, claim float64, p Profile) Weight {
	h, known := byClass(g.Class)
	fraction := 1.0
	switch {
	case g.Total > 0:
		fraction = float64(g.Slices) / float64(g.Total)
	case claim > 0 && known:
		fraction = claim / h.Weight
	}
	switch {
	case p.Weight > 0:
		return Weight{Value: p.Weight * fraction, Source: FromProfile}
	case claim > 0 && !known:
		return Weight{Value: claim, Source: FromFormula, Note: "the device plugin's estimate"}
	case claim > 0:
		return Weight{Value: claim, Source: FromTable}
	case known:
		return Weight{Value: h.Weight * fraction, Source: FromTable}
	default:
		if f := Formula(p.Spec); f > 0 {
			return Weight{Value: f * fraction, Source: FromFormula}
		}
		return Weight{Source: FromMean,
			Note: fmt.Sprintf("class %q is neither in the table nor in the profile file", g.Class)}
	}
}

func byClass(class string) (gpu.Hardware, bool) {
	for _, h := range gpu.Table() {
		if h.Class == class {
			return h, true
		}
	}
	return gpu.Hardware{}, false
}

// fillMean gives a group of which nothing is known the mean of the others, both as
// whole GPUs.
func fillMean(out map[string]Weight, groups map[string]Group) {
	part := func(name string) float64 {
		if g := groups[name]; g.Total > 0 {
			return float64(g.Slices) / float64(g.Total)
		}
		return 1
	}
	sum, n := 0.0, 0.0
	for name, w := range out {
		if w.Source != FromMean {
			sum += w.Value / part(name)
			n++
		}
	}
	mean := 1.0
	if n > 0 {
		mean = sum / n
	}
	for name, w := range out {
		if w.Source == FromMean {
			w.Value = mean * part(name)
			out[name] = w
		}
	}
}

// applyLearned replaces priors by measured rates where these can be trusted. Groups of
// one class share its rate in proportion to their priors, unless they were measured
// apart.
func applyLearned(out map[string]Weight, groups map[string]Group, counts map[string]int, learned map[string]Rate,
	trust Trust, now time.Time) {
	mean := map[string]float64{} // prior of a class's mean replica
	total := map[string]int{}
	for name, g := range groups {
		mean[g.Class] += out[name].Value * float64(counts[name])
		total[g.Class] += counts[name]
	}
	ratio := map[string]float64{}
	var ratios []float64
	note := map[string]string{}
	for class := range mean {
		mean[class] /= float64(total[class])
		r, ok := learned[class]
		if !ok {
			continue
		}
		if c, age := trust.confidence(r, now); c < trust.MinConfidence {
			note[class] = fmt.Sprintf("learned rate ignored: %.0f samples, %s old, confidence %.2f below %.2f",
				r.Samples, age.Round(time.Second), c, trust.MinConfidence)
			continue
		}
		ratio[class] = r.Replica / mean[class]
		ratios = append(ratios, ratio[class])
	}
	scale := 1.0
	if len(ratios) > 0 {
		scale = median(ratios)
	}
	for name, g := range groups {
		k, ok := ratio[g.Class]
		switch {
		case note[g.Class] != "":
			w := out[name]
			w.Note = note[g.Class]
			out[name] = w
		case ok:
			out[name] = trust.weigh(name, out[name], learned[g.Class], k, scale, now)
		}
	}
}

// weigh is a group's weight by what was measured. ratio is what was measured of the class
// to the prior of its mean replica, scale that of the service.
func (t Trust) weigh(group string, prior Weight, class Rate, ratio, scale float64, now time.Time) Weight {
	r := class
	if own, apart := class.of(group); apart {
		if c, _ := t.confidence(own, now); c >= t.MinConfidence {
			r, ratio = own, own.Replica/prior.Value
		}
	}
	if ratio/scale > t.MaxFactor || scale/ratio > t.MaxFactor {
		prior.Note = fmt.Sprintf("learned rate ignored: %.3g x what the other sources say, beyond %g x",
			ratio/scale, t.MaxFactor)
		return prior
	}
	w := Weight{Value: prior.Value * ratio / scale, Source: FromLearned}
	if r.Bench {
		w.Source = FromBench
	}
	if r.Tokens {
		w.Tokens = prior.Value * ratio
	}
	w.Confidence, w.Age = t.confidence(r, now)
	return w
}

// median is the middle value, the geometric mean of the two middle ones where
// their number is even, since ratios are compared.
func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return math.Sqrt(s[n/2-1]) * math.Sqrt(s[n/2])
	}
	return s[len(s)/2]
}
