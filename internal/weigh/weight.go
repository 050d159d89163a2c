package weigh

import (
	"fmt"
	"math"
	"slices"
	"time"

	"aliquot.example/internal/gpu"
)

// Source is the source of a weight.
type Source string

// The sources of a weight in order of precedence.
const (
	FromLearned Source = "learned" // measured by the gateways
	FromBench   Source = "bench"   // measured by aliquot bench
	FromProfile Source = "profile" // the operator's file
	FromTable   Source = "table"   // the curated hardware table
	FromFormula Source = "formula" // bandwidth and TFLOPS, corrected by architecture
	FromMean    Source = "mean"    // the mean of the service's other groups: nothing else is known
)

// Weight is the expected rate of one instance of a group, relative to a whole
// H100 SXM.
type Weight struct {
	Value  float64
	Source Source
	// Age and Confidence (0 to 1) are those of a learned weight.
	Age        time.Duration
	Confidence float64
	// Tokens is the measured speed of one instance in tokens per second, 0 if unknown or if the
	// service is not a language model.
	Tokens float64
	// Note says why a better source was ignored, "" if none was.
	Note string
}

// Spec is the data of a GPU for Formula.
type Spec struct {
	Bandwidth    float64 // GB/s
	TFLOPS       float64 // dense FP16 or BF16
	Architecture string  // see Efficiency
}

// Profile is a class in the operator's file: a weight, or figures for the formula.
type Profile struct {
	Weight float64 // 0 if only Spec is given
	Spec   Spec
}

// Rate is the measured rate of a class.
type Rate struct {
	// Replica is the rate of a fully busy replica per second. All classes of a service have the same
	// unit: tokens for a language model, otherwise requests.
	Replica float64
	Samples float64
	Updated time.Time
	// Tokens reports whether the unit is tokens. Groups then has the rates of the groups of the class
	// that were measured separately, by name.
	Tokens bool
	Groups map[string]Measured
	// Bench reports whether the rate is from a benchmark. Its age does not count: the caller omits
	// rates that are too old.
	Bench bool
}

// Measured is a rate, its number of samples and whether it is from a benchmark.
type Measured struct {
	Replica, Samples float64
	Bench            bool
}

// of returns the rate of a group, and whether the group was measured separately.
func (r Rate) of(group string) (Rate, bool) {
	m, apart := r.Groups[group]
	if apart {
		r.Replica, r.Samples, r.Bench = m.Replica, m.Samples, m.Bench
	}
	return r, apart
}

// Trust decides which learned rates are used.
type Trust struct {
	// MaxAge is the age at which a rate's confidence has fallen linearly to 0.
	MaxAge time.Duration
	// HalfSamples is the number of samples that gives confidence 1/2.
	HalfSamples float64
	// MinConfidence is the smallest confidence at which a rate is used.
	MinConfidence float64
	// MaxFactor is the largest factor between a rate and the other sources, on the same scale. A rate
	// beyond it is ignored.
	MaxFactor float64
}

// DefaultTrust uses rates of 14 fresh samples or more, until they are 36 minutes old at most, and
// within a factor of 10 of the other sources.
func DefaultTrust() Trust {
	return Trust{MaxAge: time.Hour, HalfSamples: 20, MinConfidence: 0.4, MaxFactor: 10}
}

// fresh falls linearly from 1 to 0 over MaxAge. A time in the future counts like one in the past: one
// of the two clocks is wrong by as much.
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

// Believes reports whether a published rate with this number of samples and this age is used.
func (t Trust) Believes(samples float64, age time.Duration) bool {
	c, _ := t.confidence(Rate{Samples: samples, Updated: time.Time{}}, time.Time{}.Add(age))
	return c >= t.MinConfidence
}

// Weights returns the weight of every group of a service. Learned rates are absolute and the other
// sources relative, so rates are divided by their median ratio to the other sources.
//
// gone has the last instance of each group without registered instances. Rules and failover still
// need the weights of these groups.
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

// gather returns the groups, the median claim of their instances and the number of instances, by
// name.
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

// remember adds the groups without registered instances. They count only if no instance of their
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

// prior returns the weight without measurement.
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
			Note: fmt.Sprintf("class %q is neither in the hardware table nor in the router's configuration", g.Class)}
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

// fillMean sets the weight of groups without any source to the mean of the others, both per whole
// GPU.
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

// applyLearned replaces priors with measured rates that Trust accepts. Groups of one class share its
// rate in proportion to their priors, unless they were measured separately.
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
			note[class] = fmt.Sprintf("learned rate ignored: %.0f samples, %s old: confidence %.2f is below %.2f",
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

// weigh returns a group's weight from measurements. ratio is the measured rate of the class over the
// prior of its mean replica, scale the median ratio of the service.
func (t Trust) weigh(group string, prior Weight, class Rate, ratio, scale float64, now time.Time) Weight {
	r := class
	if own, apart := class.of(group); apart {
		if c, _ := t.confidence(own, now); c >= t.MinConfidence {
			r, ratio = own, own.Replica/prior.Value
		}
	}
	if ratio/scale > t.MaxFactor || scale/ratio > t.MaxFactor {
		prior.Note = fmt.Sprintf("learned rate ignored: %.3g times the other sources, beyond the limit of %g times",
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

// median returns the middle value. For an even number it returns the geometric mean of the two middle
// ones, because the values are ratios.
func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return math.Sqrt(s[n/2-1]) * math.Sqrt(s[n/2])
	}
	return s[len(s)/2]
}
