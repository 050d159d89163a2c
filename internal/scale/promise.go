package scale

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// judge decides by the objective if its inputs are known, and by demand otherwise.
func (c Config) judge(e Evaluation) Decision {
	if c.Objective == nil {
		return c.Policy.decide(e.Series, c.Classes, c.Own, e.Current)
	}
	if why := c.unknown(e); why != "" {
		d := c.Policy.decide(e.Series, c.Classes, c.Own, e.Current)
		d.Note = "the count follows demand, because " + why
		d.Reason = "by demand, because " + why + ": " + d.Reason
		if e.Unknown != "" {
			d = d.growing(e.Current)
		}
		return d
	}
	return c.promise(e)
}

// growing keeps a count from shrinking while an answer is missing for a moment. The count by demand
// may be far from the count by the objective, which returns with the next answer. An idle service
// may still scale to zero.
func (d Decision) growing(current int) Decision {
	d.Note = strings.Replace(d.Note, "follows demand", "follows demand and only grows", 1)
	if d.Need.Idle || d.Count >= current {
		return d
	}
	d.Reason = fmt.Sprintf("holding %d until the missing data is back: %s", current, d.Reason)
	d.Count = current
	return d
}

// unknown returns what is missing to decide by the objective, "" if nothing is.
func (c Config) unknown(e Evaluation) string {
	if e.Unknown != "" {
		return e.Unknown
	}
	if names := append(c.unmeasured(), c.assumed()...); len(names) > 0 && !c.measured() {
		return fmt.Sprintf("the speed of %s is not known yet", strings.Join(names, " and of "))
	}
	if e.Traffic == nil || len(e.Traffic.Arrived) == 0 {
		return "the gateways' traffic is not known"
	}
	return ""
}

// measured reports whether any class that has devices was measured.
func (c Config) measured() bool {
	return slices.ContainsFunc(c.Classes, func(class Class) bool {
		return class.Max > 0 && class.Serving != nil && !class.Assumed
	})
}

// unmeasured returns the classes that a plan excludes because nobody has measured them.
func (c Config) unmeasured() (names []string) {
	for _, class := range c.Classes {
		if class.Serving == nil && class.Max > 0 {
			names = append(names, class.Name)
		}
	}
	return names
}

// supply is the capacity that the classes of a service offer within its objective.
type supply struct {
	// classes have one slot per replica. Its speed is that of a replica relative to the best.
	classes []Class
	// best is the index of the class whose replica serves most, and rate its requests per second.
	best int
	rate float64
	// possible means that some measured class with devices meets the objective with at least one
	// request.
	possible bool
}

// maxAssumed is how many replicas of an assumed class a plan may have: one is enough to measure it.
const maxAssumed = 1

// supply excludes a class whose performance is unknown. It also excludes a class that misses the
// objective with a single request, unless all classes do.
func (c Config) supply() supply {
	s := supply{classes: make([]Class, len(c.Classes))}
	for _, class := range c.Classes {
		s.possible = s.possible ||
			class.Max > 0 && class.Serving != nil && class.Serving.Concurrency > 0 && !class.Assumed
	}
	for i, class := range c.Classes {
		most := class.planned(s.possible)
		s.classes[i] = Class{Name: class.Name, Slots: 1, Cost: class.Cost, Max: most, Speed: slowest}
		if most > 0 && !class.Assumed && class.Serving.Rate > s.rate {
			s.best, s.rate = i, class.Serving.Rate
		}
	}
	for i, class := range c.Classes {
		if s.classes[i].Max > 0 && s.rate > 0 {
			s.classes[i].Speed = max(slowest, class.Serving.Rate/s.rate)
		}
	}
	return s
}

// planned returns how many replicas of a class a plan may have. possible is supply.possible.
func (c Class) planned(possible bool) int {
	switch {
	case c.Serving == nil || c.Serving.Concurrency == 0 && (possible || c.Assumed):
		return 0
	case c.Assumed:
		return min(c.Max, maxAssumed)
	}
	return c.Max
}

// These values come from the same search as those of sizing.
const (
	// planInterval is the interval between two planned capacities, in Steps.
	planInterval = 30
	// promisedHysteresis bounds Hysteresis. The memory of arrivals already prevents most
	// oscillation.
	promisedHysteresis = 0.05

	// outcomeWindow is how far back outcomes are evaluated, and minOutcomes how many there must be.
	outcomeWindow = 10 * time.Minute
	minOutcomes   = 20
	// correctionPower is how a correction grows with the misses, and maxCorrection is its maximum.
	// It begins at the part corrected of the allowed misses: a correction that begins only at the
	// limit keeps a service at the limit.
	correctionPower = 0.2
	maxCorrection   = 3
	corrected       = 0.75

	// certainty multiplies ForecastConfidence for a forecast from arrivals. Arrivals vary more than
	// requests in flight, and a replica that noise orders usually ends before it serves.
	certainty = 2
)

// promise decides by the objective: the least capacity that would have met it for the recent
// arrivals, plus the forecast, and increased by a correction for misses.
func (c Config) promise(e Evaluation) Decision {
	s, p, t := c.supply(), c.Policy, e.Traffic
	if s.rate == 0 { // no class has devices
		return p.choose([]float64{0}, Need{}, len(t.Arrived), s.classes, c.Own, e.Current)
	}
	p.Utilization, p.Hysteresis = 1, min(p.Hysteresis, promisedHysteresis)
	arrived := scaled(t.Arrived, 1/s.rate)
	z := p.sizing(*c.Objective, c.Classes[s.best].Serving)
	var held []float64
	for back := steps(p.ColdStart) / planInterval * planInterval; back > 0 && len(s.classes) > 1; back -= planInterval {
		if n := len(arrived) - back; n > 0 {
			held = append(held, z.capacity(arrived[:n]))
		}
	}
	need := p.needs(z, arrived, e, s.possible)
	held = append(held, need.Demand)
	if len(s.classes) > 1 {
		p.multiple = int(coarse(need.Demand) * float64(grain(s.classes)))
	}
	need.Unit = s.classes[s.best].Name
	d := p.choose(held, need, len(arrived), s.classes, c.Own, e.Current)
	d.Note = c.note(s, need)
	d.Reason = c.account(s, need, t, d.Note) + d.Reason
	return d
}

// coarse returns the step to which planned demand is rounded with several classes: whole replicas
// from a demand of four. Each demand has a different cheapest mix, and a change of the mix costs
// replicas of both mixes.
func coarse(demand float64) float64 {
	return min(1, math.Exp2(math.Floor(math.Log2(max(demand, 0.2)/4))))
}

func scaled(series []float64, by float64) []float64 {
	out := make([]float64, len(series))
	for i, v := range series {
		out[i] = v * by
	}
	return out
}

// needs returns the present need, in replicas of the best class. Arrivals show neither requests
// without a promise nor how long responses take. A service is therefore idle only if nothing waits
// and nothing is being served.
func (p Policy) needs(z sizing, arrived []float64, e Evaluation, possible bool) Need {
	t := e.Traffic
	sums := make([]float64, len(arrived)+1)
	for i, came := range arrived {
		sums[i+1] = sums[i] + came
	}
	n := Need{
		Stable: mean(sums, len(arrived), steps(p.StableWindow)), Panic: mean(sums, len(arrived), steps(p.PanicWindow)),
		Complete: len(arrived) >= steps(p.Window()), Idle: t.Waiting == 0 && p.idle(arrived) && p.idle(e.Series),
	}
	n.Panicking = p.woken(sums)
	n.Demand = z.capacity(arrived)
	if p.ForecastWindow > 0 && len(arrived) >= steps(p.ForecastWindow) {
		certain := p
		certain.ForecastConfidence *= certainty
		if n.Forecast = certain.forecast(sums, len(arrived)); n.Forecast > max(n.Stable, n.Panic) {
			n.Demand += min(maxForecastRatio*n.Demand, n.Forecast-max(n.Stable, n.Panic))
		}
	}
	if possible { // otherwise more replicas would miss it too
		n.Demand *= t.correction(z.missed)
	}
	waiting := t.Waiting
	if n.Complete { // waiting requests that the arrivals do not include have no promise and order nothing
		waiting = min(waiting, sums[len(arrived)]/z.unit)
	}
	n.Demand += waiting * z.unit / z.drain
	return n
}

// woken reports whether requests came within the last cold start, after none for a StableWindow.
// The gateway has then started a replica of a class that it chose, which serves before those of the
// plan do.
func (p Policy) woken(sums []float64) bool {
	now := len(sums) - 1
	since := max(0, now-max(1, steps(p.ColdStart)))
	before := max(0, since-steps(p.StableWindow))
	return before < since && sums[since] == sums[before] && sums[now] > sums[since]
}

// correction returns the factor by which capacity is increased because recent requests missed the
// objective. It grows slowly, because new replicas help only after a cold start. It is bounded,
// because not every miss is due to too few replicas.
func (t *Traffic) correction(allowed float64) float64 {
	met, missed := 0.0, 0.0
	for i := max(0, len(t.Met)-steps(outcomeWindow)); i < len(t.Met); i++ {
		met += t.Met[i]
		missed += t.Missed[i]
	}
	if met+missed < minOutcomes {
		return 1
	}
	return min(maxCorrection, max(1, math.Pow(missed/(met+missed)/(corrected*allowed), correctionPower)))
}

// note returns what part of the objective cannot be met, "" if all of it can.
func (c Config) note(s supply, need Need) string {
	switch left := c.unmeasured(); {
	case !s.possible:
		return "the objective cannot be met"
	case need.Demand > capacityOf(s.classes):
		return "the objective needs more devices than the classes allow"
	case len(left) > 0:
		return "the plan leaves out " + strings.Join(left, " and ") + ": not measured yet"
	}
	if assumed := c.assumed(); len(assumed) > 0 {
		return strings.Join(assumed, " and ") + " may have one replica until measured (speed from the hardware table)"
	}
	return ""
}

// assumed returns the classes that are planned for although nobody has measured them.
func (c Config) assumed() (names []string) {
	for _, class := range c.Classes {
		if class.Assumed && class.Max > 0 {
			names = append(names, class.Name)
		}
	}
	return names
}

// profiled lists the classes whose figures come from a profile instead of served requests.
func (c Config) profiled() string {
	var out strings.Builder
	for _, class := range c.Classes {
		if class.Serving == nil || class.Max == 0 || class.Profiled.IsZero() {
			continue
		}
		of := ""
		if len(c.Classes) > 1 {
			of = " of " + class.Name
		}
		fmt.Fprintf(&out, "curve%s from profile of %s, ", of, class.Profiled.UTC().Format(time.DateOnly))
	}
	return out.String()
}

// account returns the prefix of a reason: that the objective decided, what part of it cannot be
// met, and what it would take.
func (c Config) account(s supply, need Need, t *Traffic, note string) string {
	var out strings.Builder
	out.WriteString("by the objective, ")
	if share, known := t.Attained(); known {
		fmt.Fprintf(&out, "%.1f%% within, ", 100*share)
	}
	out.WriteString(c.profiled())
	best, name := c.Classes[s.best].Serving, s.classes[s.best].Name
	switch {
	case !s.possible:
		fmt.Fprintf(&out, "%s: an average request alone on %s takes %s to the first token and %s for each "+
			"further token, the objective is %s; ", note, name, seconds(best.First), seconds(best.Token), c.Objective)
	case need.Demand > capacityOf(s.classes):
		fmt.Fprintf(&out, "%s: %.0f more replicas of %s; ",
			note, math.Ceil(need.Demand-capacityOf(s.classes)), name)
	case note != "":
		out.WriteString(note + "; ")
	}
	return out.String()
}

// seconds formats a duration with two significant digits.
func seconds(s float64) string { return fmt.Sprintf("%.2gs", s) }

// capacityOf returns the capacity of all devices, in replicas of the best class.
func capacityOf(classes []Class) (total float64) {
	for _, class := range classes {
		total += float64(class.Max) * class.Speed
	}
	return total
}
