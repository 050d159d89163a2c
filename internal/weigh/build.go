package weigh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// View is the input of Build for one service.
type View struct {
	Service  string
	Protocol string // for a service-defaults entry that does not exist yet
	// ProtocolNamed reports whether the configuration file sets Protocol for this service.
	ProtocolNamed bool
	// Inherited is the protocol of proxy-defaults, "" if there is none.
	Inherited string
	Tuning    Tuning
	Instances []Instance
	// Refused are the ignored instances. Subsets must not match them.
	Refused []Refused
	Weights map[string]Weight // by group name
	// Seen is the time at which a group last had a registered instance, by group name. A group
	// without instances keeps its subset for Limits.Retain after that.
	Seen  map[string]time.Time
	Rules []Rule
	// Order is the failover order of the last build, see Plan.Order.
	Order     []string
	Have      map[Key]Observed
	LastWrite time.Time
	Now       time.Time
	Limits    Limits
}

// Plan is the wanted state of Consul for one service.
type Plan struct {
	// Want has the wanted entries. It is nil if nothing should change, and empty if all entries of
	// ours should be removed.
	Want map[Key]Entry
	// Shares are computed from the healthy instances, even if the entries keep older shares.
	Shares []Share
	// Held reports whether the splitters keep their present shares. Wait is the longest time until
	// the next decision.
	Held   bool
	Wait   time.Duration
	Reason string
	// Refused is the error with which the entries failed Validate, "" if they passed. Want is then
	// nil.
	Refused string
	// Blocked lists the hand-written entries that prevent routing.
	Blocked []string
	// Notes lists what the plan leaves out, and other hints.
	Notes []string
	// Order lists the groups, the fastest first.
	Order []string
}

// Build decides the entries of a service that has opted in.
func Build(v View) Plan {
	p := Plan{Reason: "nothing is registered"}
	groups := v.groups()
	if len(groups) == 0 {
		p.Want = map[Key]Entry{}
		return p
	}
	p.Order = failoverOrder(v.Order, groups, v.Weights)
	p.Blocked = v.blocked(&p)
	if len(p.Blocked) > 0 {
		p.Reason = "a hand-written entry prevents routing"
		return p
	}
	b := builder{view: v, plan: &p, groups: groups, loads: v.loads(groups)}
	b.build()
	return p
}

// groups returns the registered groups, and those without instances for less than Limits.Retain.
func (v View) groups() map[string]Group {
	out := map[string]Group{}
	for name, at := range v.Seen {
		if g, err := ParseGroup(name); err == nil && v.Now.Sub(at) < v.Limits.Retain {
			out[name] = g
		}
	}
	for _, in := range v.Instances {
		out[in.Group.Name()] = in.Group
	}
	return out
}

// loads counts the healthy instances of each group.
func (v View) loads(groups map[string]Group) map[string]Load {
	out := map[string]Load{}
	for name := range groups {
		out[name] = Load{Group: name, Rate: v.Weights[name].Value}
	}
	for _, in := range v.Instances {
		if in.Healthy {
			l := out[in.Group.Name()]
			l.Count++
			out[l.Group] = l
		}
	}
	return out
}

// orderMargin is the factor by which a group must be faster to overtake another in the failover
// order, so that jitter of measured rates does not rewrite the resolver.
const orderMargin = 1.1

// failoverOrder sorts groups by speed, the fastest first. It starts from the previous order and moves
// only groups that are clearly faster.
func failoverOrder(before []string, groups map[string]Group, weights map[string]Weight) []string {
	speed := func(name string) float64 { return weights[name].Value }
	var out []string
	for _, name := range before {
		if _, ok := groups[name]; ok {
			out = append(out, name)
		}
	}
	fresh := slices.DeleteFunc(slices.Collect(maps.Keys(groups)), func(n string) bool {
		return slices.Contains(out, n)
	})
	slices.SortFunc(fresh, func(a, b string) int { return cmp.Or(cmp.Compare(speed(b), speed(a)), cmp.Compare(a, b)) })
	for _, name := range fresh {
		at := slices.IndexFunc(out, func(o string) bool { return speed(o) < speed(name) })
		if at < 0 {
			at = len(out)
		}
		out = slices.Insert(out, at, name)
	}
	for moved := true; moved; {
		moved = false
		for i := 1; i < len(out); i++ {
			if speed(out[i]) > speed(out[i-1])*orderMargin {
				out[i-1], out[i] = out[i], out[i-1]
				moved = true
			}
		}
	}
	return out
}

// blocked returns the hand-written entries that prevent routing. A hand-written service-defaults with
// an HTTP protocol does not; a hand-written service-router only prevents rules.
func (v View) blocked(p *Plan) []string {
	var out []string
	foreign := func(k Kind, name string) (Observed, bool) {
		o, ok := v.Have[Key{k, name}]
		return o, ok && !o.Ours
	}
	if o, ok := foreign(Defaults, v.Service); ok && !httpLike(o.Entry.Protocol) {
		out = append(out,
			fmt.Sprintf("%s is hand-written with protocol %q: set it to http, http2 or grpc, or delete the entry",
				o.Entry.Key, o.Entry.Protocol))
	}
	for _, kind := range []Kind{Resolver, Splitter} {
		if o, ok := foreign(kind, v.Service); ok {
			out = append(out,
				fmt.Sprintf("%s is hand-written (no owner mark): delete it, or exclude the service from routing",
					o.Entry.Key))
		}
	}
	if o, ok := foreign(Router, v.Service); ok && len(v.Rules) > 0 {
		p.Notes = append(p.Notes,
			fmt.Sprintf("%s is hand-written (no owner mark), so the rules are not applied: delete the entry, "+
				"or remove the rules", o.Entry.Key))
	}
	return out
}

func httpLike(protocol string) bool {
	return protocol == "http" || protocol == "http2" || protocol == "grpc"
}

type builder struct {
	view   View
	plan   *Plan
	groups map[string]Group
	loads  map[string]Load
	subs   []Subset
	urgent bool // a group with a share has lost its last healthy instance
}

func (b *builder) build() {
	v, p := b.view, b.plan
	shares, err := Shares(b.ordered(p.Order))
	if err != nil {
		// Without a healthy instance, no shares work. Keep the present ones, or start with the
		// registered instances.
		p.Reason = err.Error()
		shares, err = Shares(b.registered(p.Order))
	}
	if err != nil {
		shares, _ = Shares(even(p.Order))
	}
	p.Shares = shares
	p.Want = map[Key]Entry{}
	b.add(Entry{Key: Key{Defaults, v.Service}, Protocol: v.protocolOf(), Tuning: v.Tuning.of(Defaults)})
	for _, name := range p.Order {
		b.subset(name, b.filter(name), others(p.Order, name))
	}
	b.add(Entry{Key: Key{Splitter, v.Service}, Splits: b.splits(v.Service, shares, p.Order, "")})
	if o, ok := v.Have[Key{Router, v.Service}]; !ok || o.Ours {
		b.rules()
	}
	SortSubsets(b.subs)
	tuning := v.Tuning.of(Resolver)
	tuning.Balance = b.balance()
	b.add(Entry{Key: Key{Resolver, v.Service}, Subsets: b.subs, Tuning: tuning})
	b.tuningNotes()
	if err := Validate(p.Want); err != nil {
		p.Want, p.Refused = nil, err.Error()
		return
	}
	b.pace()
}

// pace delays a write within Limits.Interval of the last one, unless a group has lost its last
// healthy instance.
func (b *builder) pace() {
	v, p := b.view, b.plan
	wait := v.LastWrite.Add(v.Limits.Interval).Sub(v.Now)
	if wait <= 0 || b.urgent {
		return
	}
	if _, pending := Next(v.Have, p.Want); pending {
		p.Want, p.Held, p.Wait = nil, true, min(wait, v.Limits.Interval)
		p.Reason = "written less than " + v.Limits.Interval.String() + " ago"
	}
}

func (b *builder) add(e Entry) { b.plan.Want[e.Key] = e }

func (b *builder) subset(name, filter string, failover []string) {
	b.subs = append(b.subs, Subset{Name: name, Filter: filter, Failover: failover})
}

func (b *builder) ordered(order []string) []Load {
	out := make([]Load, len(order))
	for i, name := range order {
		out[i] = b.loads[name]
	}
	return out
}

func (b *builder) filter(name string) string {
	g := b.groups[name]
	alone := true
	var weights []string
	for _, r := range b.view.Refused {
		if r.Class != g.Class {
			continue
		}
		alone = false
		if r.Weight != "" && !slices.Contains(weights, r.Weight) {
			weights = append(weights, r.Weight)
		}
	}
	for other, o := range b.groups {
		alone = alone && (other == name || o.Class != g.Class)
	}
	slices.Sort(weights)
	return g.Filter(alone, weights...)
}

// registered counts instances whether healthy or not.
func (b *builder) registered(order []string) []Load {
	out := b.ordered(order)
	for i := range out {
		out[i].Count = 0
		for _, in := range b.view.Instances {
			if in.Group.Name() == out[i].Group {
				out[i].Count++
			}
		}
	}
	return out
}

func even(order []string) []Load {
	out := make([]Load, len(order))
	for i, name := range order {
		out[i] = Load{Group: name, Count: 1, Rate: 1}
	}
	return out
}

func others(order []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(order), func(o string) bool { return o == name })
}

// splits converts shares to splits over the subsets of the groups, or keeps the splitter's present
// splits if Decide says so.
func (b *builder) splits(splitter string, shares []Share, order []string, suffix string) []Split {
	v := b.view
	prev, exists := b.current(splitter, suffix)
	healthy := slices.ContainsFunc(shares, func(s Share) bool { return b.loads[s.Group].Count > 0 })
	keep := exists && sameGroups(prev, order)
	if keep && healthy {
		d := Decide(prev, shares, v.LastWrite, v.Now, v.Limits)
		keep = !d.Write
		b.urgent = b.urgent || d.Urgent
		if d.Wait > 0 && (b.plan.Wait == 0 || d.Wait < b.plan.Wait) {
			b.plan.Wait = d.Wait
		}
		b.plan.Reason = d.Reason
	} else if !keep && healthy {
		b.plan.Reason = "groups changed"
		b.urgent = b.urgent || emptied(prev, shares)
	}
	if keep {
		b.plan.Held = true
		shares = prev
	}
	out := make([]Split, 0, len(shares))
	for _, s := range shares {
		out = append(out, Split{Service: v.Service, Subset: s.Group + suffix, Hundredths: s.Hundredths})
	}
	slices.SortFunc(out, func(a, b Split) int { return cmp.Compare(a.Subset, b.Subset) })
	return out
}

// current returns the shares in a splitter of ours. ok is false if the splitter does not have the
// form that splits writes.
func (b *builder) current(splitter, suffix string) (shares []Share, ok bool) {
	o, ok := b.view.Have[Key{Splitter, splitter}]
	if !ok || !o.Ours {
		return nil, false
	}
	sum := 0
	var out []Share
	for _, s := range o.Entry.Splits {
		if s.Service != b.view.Service || len(s.Subset) <= len(suffix) ||
			s.Subset[len(s.Subset)-len(suffix):] != suffix || s.Hundredths < 0 {
			return nil, false
		}
		out = append(out, Share{Group: s.Subset[:len(s.Subset)-len(suffix)], Hundredths: s.Hundredths})
		sum += s.Hundredths
	}
	return out, sum == Whole
}

func sameGroups(prev []Share, order []string) bool {
	if len(prev) != len(order) {
		return false
	}
	for _, s := range prev {
		if !slices.Contains(order, s.Group) {
			return false
		}
	}
	return true
}
