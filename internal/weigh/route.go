package weigh

import (
	"fmt"
	"slices"
	"strings"
)

// ruleMark joins a service or subset with a rule's name. Neither a group's nor a
// rule's name holds it.
const ruleMark = "--"

// RuleService names the virtual service that holds a rule's split, since a route
// can only lead to a service or to one subset.
func RuleService(service, rule string) string { return service + ruleMark + rule }

// RuleOwner returns the service that a name made by RuleService belongs to, and
// any other name as it is.
func RuleOwner(name string) string {
	if cut := strings.LastIndex(name, ruleMark); cut > 0 {
		return name[:cut]
	}
	return name
}

// rules adds the service-router and what its routes lead to.
func (b *builder) rules() {
	v, p := b.view, b.plan
	var routes []Route
	for _, r := range v.Rules {
		var eligible []string
		for _, name := range p.Order {
			if r.eligible(b.groups[name], v.Weights[name]) {
				eligible = append(eligible, name)
			}
		}
		if len(eligible) == 0 && !r.Strict {
			p.Notes = append(p.Notes, fmt.Sprintf("rule %q is left out: no registered hardware meets it", r.Name))
			continue
		}
		service, subset, err := b.destination(r, eligible)
		if err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("rule %q is left out: %v", r.Name, err))
			continue
		}
		routes = append(routes, Route{PathPrefix: r.PathPrefix, Headers: r.Headers, Service: service, Subset: subset})
	}
	if tuning := v.Tuning.of(Router); tuning != (Tuning{}) {
		// Time-outs and retries of requests that are split hold by a route alone.
		routes = append(routes, Route{PathPrefix: "/", Service: v.Service})
		b.add(Entry{Key: Key{Router, v.Service}, Routes: routes, Tuning: tuning})
	} else if len(routes) > 0 {
		b.add(Entry{Key: Key{Router, v.Service}, Routes: routes})
	}
}

// destination returns where a rule's route leads: to the service's own split when
// all hardware is eligible, to the one eligible subset, or to a virtual service
// that splits over several. A strict rule has subsets of its own, which fail over
// among themselves only; without eligible hardware its requests go to a service
// that has no instances, and fail.
func (b *builder) destination(r Rule, eligible []string) (service, subset string, err error) {
	v := b.view
	suffix := ""
	if r.Strict {
		suffix = ruleMark + r.Name
	}
	if !r.Strict && len(eligible) == len(b.groups) {
		return v.Service, "", nil
	}
	virtual := RuleService(v.Service, r.Name)
	if len(eligible) != 1 {
		if err := b.free(virtual); err != nil {
			return "", "", err
		}
	}
	if r.Strict {
		for _, name := range eligible {
			rest := others(eligible, name)
			for i := range rest {
				rest[i] += suffix
			}
			b.subset(name+suffix, b.filter(name), rest)
		}
	}
	if len(eligible) == 1 {
		return v.Service, eligible[0] + suffix, nil
	}
	b.add(Entry{Key: Key{Defaults, virtual}, Protocol: b.protocol()})
	if len(eligible) == 0 {
		b.plan.Notes = append(b.plan.Notes,
			fmt.Sprintf("rule %q is strict and no registered hardware meets it: its requests fail", r.Name))
		return virtual, "", nil
	}
	shares, err := Shares(b.ordered(eligible))
	if err != nil {
		shares, err = Shares(b.registered(eligible))
	}
	if err != nil {
		shares, _ = Shares(even(eligible))
	}
	b.add(Entry{Key: Key{Splitter, virtual}, Splits: b.splits(virtual, shares, eligible, suffix)})
	return virtual, "", nil
}

// protocol is that of the service's service-defaults, ours or hand-written; all
// services of a chain must speak the same.
func (b *builder) protocol() string {
	if o, ok := b.view.Have[Key{Defaults, b.view.Service}]; ok && !o.Ours {
		return o.Entry.Protocol
	}
	return b.view.protocolOf()
}

// free says whether a virtual service's entries can be written.
func (b *builder) free(virtual string) error {
	if err := CheckService(virtual); err != nil {
		return err
	}
	for _, kind := range Kinds() {
		key := Key{kind, virtual}
		if o, ok := b.view.Have[key]; ok && !o.Ours {
			return fmt.Errorf("%s is hand-written (no owner mark)", key)
		}
	}
	return nil
}

// Groups lists the groups whose subsets a resolver of ours has.
func Groups(e Entry) []string {
	var out []string
	for _, s := range e.Subsets {
		if _, err := ParseGroup(s.Name); err == nil && !strings.Contains(s.Name, ruleMark) {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}
