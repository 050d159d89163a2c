package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// OutlookStep is the time between two decisions of an Outlook, in seconds.
const OutlookStep = 5

// Outlook is a replay of the policies of a service over the last hour. The counts are those of the
// autoscaler's strategy for the demand that gateways have stored, with the present settings and
// speeds. Each decision starts from the count of the previous one. A value is nil in a gap.
type Outlook struct {
	Service string `json:"service"`
	// Problem is why the page cannot decide. All other fields are then empty.
	Problem string    `json:"problem,omitempty"`
	At      time.Time `json:"at"`
	// Ahead is the cold start in seconds. Learned reports whether it was measured, Set whether the
	// policy sets it.
	Ahead   int64 `json:"ahead"`
	Learned bool  `json:"learned"`
	Set     bool  `json:"set"`
	// With an objective, Unit is the class in whose replicas demand is counted. Otherwise Load
	// reports whether demand is in slots of the fastest class instead of simultaneous requests.
	Unit string `json:"unit,omitempty"`
	Load bool   `json:"load"`
	// Curves is when the curves of the whole hour came into force, nil without an objective.
	Curves *time.Time `json:"curves,omitempty"`
	Time   []int64    `json:"t"` // Unix seconds, OutlookStep apart
	// Demand is the measured demand; if it is in replicas, it is the mean of the policy's panic
	// window. Planned is the demand for which replicas are planned. Forecast is the expected demand
	// Ahead seconds later, at the time when the forecast was made, nil if no rise was certain.
	Demand   []*float64     `json:"demand"`
	Planned  []*float64     `json:"planned"`
	Forecast []*float64     `json:"forecast"`
	Classes  []OutlookClass `json:"classes"`
	// Cost is the cost of all counts, nil if the policy has no classes.
	Cost *Compared `json:"cost,omitempty"`
}

// OutlookClass is the number of replicas of one hardware class. Name is "" for all classes together.
type OutlookClass struct {
	Name string `json:"name"`
	Compared
}

// Compared has the values by the policy, Would, and the real ones, Was, which count ready and
// starting replicas.
type Compared struct {
	Would []*float64 `json:"would"`
	Was   []*float64 `json:"was"`
}

// Next is the present decision of a policy.
type Next struct {
	At    time.Time `json:"at"`
	Job   string    `json:"job"`
	Group string    `json:"group"`
	// Count is the decided count, Set the present one.
	Count int `json:"count"`
	Set   int `json:"set"`
	// Reason is the strategy's reason.
	Reason string `json:"reason"`
}

// planned is a policy with its parsed settings and its demand.
type planned struct {
	Policy
	config scale.Config
	promise
	// demand is the demand of each stored second, with the zero time in a gap.
	demand []scale.Point
}

// Replay replays the policies of one service step by step. The zero Replay has no steps.
type Replay struct {
	policies []planned
	problem  string
	steps    []step
	// begun reports whether there is a decision, told whether the last Outlook has all of them.
	begun, complete bool
}

// step is one decision of each policy.
type step struct {
	second int64
	// known is false in a gap of the demand.
	known                     bool
	demand, planned, forecast float64
	counts                    []int  // by policy
	unit                      string // of all three, see Outlook
}

// Continue decides the missing steps up to now, until stop returns true. It starts again if the
// policies have changed. It returns true if steps are still missing.
func (r *Replay) Continue(policies []Policy, m *Memory, now int64, stop func() bool) (more bool) {
	next := plannedOf(policies)
	same := slices.EqualFunc(next.policies, r.policies, samePolicy) && next.problem == r.problem
	if moved := next.promise(r.policies, same, now); same && !moved {
		next.steps, next.begun, next.complete = r.steps, r.begun, r.complete
	}
	*r = next
	if len(r.policies) == 0 {
		return false
	}
	r.read(m)
	last := m.Last() / OutlookStep * OutlookStep
	first := (now-Depth)/OutlookStep*OutlookStep + OutlookStep
	r.steps = slices.DeleteFunc(r.steps, func(s step) bool { return s.second < first })
	if n := len(r.steps); n > 0 {
		first = r.steps[n-1].second + OutlookStep
	} else {
		r.begun = false
	}
	for t := first; t <= last; t += OutlookStep {
		if stop() {
			return true
		}
		r.steps, r.complete = append(r.steps, r.decide(m, t)), false
	}
	return false
}

// read computes each policy's demand of the stored seconds.
func (r *Replay) read(m *Memory) {
	for i := range r.policies {
		p := &r.policies[i]
		p.demand = make([]scale.Point, Depth)
		p.answered = m.answered
		for at := range m.ring {
			if s := &m.ring[at]; s.point != nil {
				p.demand[at] = scale.Point{At: time.Unix(s.second, 0), Value: p.value(s.point)}
				p.take(at, s.point)
			}
		}
	}
}

// plannedOf returns a replay of the enabled policies with parsed settings.
func plannedOf(policies []Policy) (r Replay) {
	sorted := slices.SortedFunc(slices.Values(policies), func(a, b Policy) int {
		of := strings.Compare
		return cmp.Or(of(a.Namespace, b.Namespace), of(a.Job, b.Job), of(a.Group, b.Group))
	})
	for _, p := range sorted {
		if !p.Enabled {
			continue
		}
		config, problem := configOf(p)
		if problem != "" {
			return Replay{problem: p.Job + "/" + p.Group + ": " + problem}
		}
		r.policies = append(r.policies, planned{Policy: p, config: config})
	}
	if r.policies == nil {
		r.problem = "the service has no enabled scaling policy"
	}
	return r
}

// configOf parses a policy's settings with the functions of the strategy.
func configOf(p Policy) (config scale.Config, problem string) {
	switch q := p.Query; {
	case p.QueryProblem != "":
		return config, p.QueryProblem
	case q.Class != "" || !repeated(q.Metric, p.Settings["objective"] != ""):
		return config, "its query for " + string(q.Metric) +
			" is not supported here: this page can only replay concurrency and load of a whole service"
	}
	config, _, err := query.Config(p.Settings, p.Window, p.ColdStart)
	if err != nil {
		return config, err.Error()
	}
	measured, err := p.Query.Unit(config.Classes, config.Objective != nil)
	if err != nil {
		return config, err.Error()
	}
	if measured {
		config.Classes = scale.WithSlots(scale.WithSpeeds(config.Classes, p.Rates), p.Slots)
	}
	return config, ""
}

// repeated reports whether the page can replay queries of a metric.
func repeated(m query.Metric, promised bool) bool {
	return m == query.Concurrency || m == query.Load || m == query.Tokens && promised
}

// samePolicy reports whether two policies make the same decisions.
func samePolicy(a, b planned) bool {
	one := a.Namespace == b.Namespace && a.Job == b.Job && a.Group == b.Group
	asked := a.Query.Metric == b.Query.Metric && a.Window == b.Window && a.Min == b.Min && a.Max == b.Max
	c, d := a.config, b.config
	promised := a.Settings["objective"] == b.Settings["objective"]
	return one && asked && promised && c.Policy == d.Policy && c.Own == d.Own && slices.Equal(c.Classes, d.Classes)
}

// value returns the demand of one second as aliquot-apm computes it.
func (p planned) value(of *api.Point) float64 {
	if p.Query.Metric != query.Load {
		return of.Queued + of.Active
	}
	active := map[string]float64{}
	for class, c := range of.Class {
		active[class] = c.Active
	}
	return scale.Load(of.Queued, of.Active, active, p.config.Classes)
}

// at returns the demand of a second, false in a gap.
func (p planned) at(second int64) (scale.Point, bool) {
	of := p.demand[second%Depth]
	return of, of.At.Unix() == second
}

// series returns the demand of the policy's window that ends with a second.
func (p planned) series(end int64) ([]float64, error) {
	var points []scale.Point
	for t := max(end-p.seconds(), end-Depth) + 1; t <= end; t++ {
		if of, known := p.at(t); known {
			points = append(points, of)
		}
	}
	return scale.Series(points)
}

// bound limits a count to the policy's min and max, as the autoscaler does.
func (p planned) bound(count int) int { return min(max(count, p.Min), max(p.Min, p.Max)) }

func (r *Replay) decide(m *Memory, second int64) step {
	s := step{second: second, counts: make([]int, len(r.policies))}
	for i, p := range r.policies {
		current := r.replicasAt(m, i, second)
		if r.begun {
			current = r.steps[len(r.steps)-1].counts[i]
		}
		s.counts[i] = current
		if _, known := p.at(second); !known {
			continue
		}
		d, err := p.decide(second, current, scale.Always)
		if err != nil {
			continue
		}
		s.counts[i] = p.bound(d.Count)
		s.known, s.demand, s.planned, s.forecast = true, p.mean(second), d.Need.Demand, d.Need.Forecast
		if s.unit = d.Need.Unit; s.unit != "" {
			s.demand = d.Need.Panic
		}
	}
	r.begun = r.begun || s.known
	return s
}

// replicasAt returns the number of replicas of a policy's class in a second, 0 if unknown.
func (r *Replay) replicasAt(m *Memory, policy int, second int64) int {
	by := m.stands(second)
	sum := 0
	for class, s := range by {
		if own := r.policies[policy].class(); own == "" || own == class {
			sum += s.Ready + s.Starting
		}
	}
	return sum
}

// class returns the class of a policy's replicas, "" for all classes.
func (p planned) class() string { return p.Settings["class"] }

// mean returns the mean demand of the step that ends with a second.
func (p planned) mean(end int64) float64 {
	sum, n := 0.0, 0.0
	for t := end - OutlookStep + 1; t <= end; t++ {
		if of, known := p.at(t); known {
			sum, n = sum+of.Value, n+1
		}
	}
	return sum / max(1, n)
}

// Next returns the decision of each policy for the newest second. Call it after Continue. It
// returns none if the newest demand is too old.
func (r *Replay) Next(m *Memory, now time.Time) []Next {
	out := []Next{}
	last := m.Last()
	if last < now.Unix()-stale {
		return out
	}
	for _, p := range r.policies {
		d, err := p.decide(last, p.Count, p.speedsFor())
		if err != nil {
			continue
		}
		out = append(out, Next{
			At: now, Job: p.Job, Group: p.Group, Count: p.bound(d.Count), Set: p.Count, Reason: d.Reason,
		})
	}
	return out
}

// stale is the age in seconds from which the newest second is too old for a decision, the default of
// aliquot-apm's stale_after.
const stale = 10

// Changed reports whether there is a step or a problem that is not in the last Outlook.
func (r *Replay) Changed() bool { return !r.complete && (len(r.steps) > 0 || r.problem != "") }

// Outlook returns the decisions so far.
func (r *Replay) Outlook(service string, m *Memory, now time.Time) *Outlook {
	r.complete = true
	out := &Outlook{
		Service: service, Problem: r.problem, At: now, Time: []int64{}, Classes: []OutlookClass{},
		Demand: []*float64{}, Planned: []*float64{}, Forecast: []*float64{},
	}
	if len(r.policies) == 0 {
		return out
	}
	p := r.policies[0]
	out.Curves = p.since()
	out.Ahead, out.Load = int64(p.config.Policy.ColdStart.Seconds()), p.Query.Metric == query.Load
	out.Set = p.Settings[query.ColdStart] != ""
	out.Learned = !out.Set && p.ColdStart > 0
	for _, s := range r.steps {
		var demand, planned, forecast *float64
		if s.known {
			out.Unit = s.unit
			demand, planned = figure(s.demand), figure(s.planned)
			if s.forecast > 0 {
				forecast = figure(s.forecast)
			}
		}
		out.Time = append(out.Time, s.second)
		out.Demand, out.Planned = append(out.Demand, demand), append(out.Planned, planned)
		out.Forecast = append(out.Forecast, forecast)
	}
	r.compare(out, m)
	return out
}
