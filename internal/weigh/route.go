package weigh

import (
	"fmt"
	"slices"
	"strings"
)

// ruleMark separates a service or subset from a rule's name. The names of groups and rules do not
// contain it.
const ruleMark = "--"

// RuleService returns the name of the virtual service for a rule's split: a route can only lead to a
// service or to one subset.
func RuleService(service, rule string) string { return service + ruleMark + rule }

// RuleOwner returns the service in a name from RuleService, and any other name unchanged.
func RuleOwner(name string) string {
	if cut := strings.LastIndex(name, ruleMark); cut > 0 {
		return name[:cut]
	}
	return name
}

// rules adds the service-router, and the entries to which its routes lead.
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
			p.Notes = append(p.Notes, fmt.Sprintf("rule %q is not applied: no registered hardware matches it", r.Name))
			continue
		}
		service, subset, err := b.destination(r, eligible)
		if err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("rule %q is not applied: %v", r.Name, err))
			continue
		}
		routes = append(routes, Route{PathPrefix: r.PathPrefix, Headers: r.Headers, Service: service, Subset: subset})
	}
	if tuning := v.Tuning.of(Router); tuning != (Tuning{}) {
		// Only a route can set timeouts and retries for requests to a splitter.
		routes = append(routes, Route{PathPrefix: "/", Service: v.Service})
		b.add(Entry{Key: Key{Router, v.Service}, Routes: routes, Tuning: tuning})
	} else if len(routes) > 0 {
		b.add(Entry{Key: Key{Router, v.Service}, Routes: routes})
	}
}

// destination returns the destination of a rule's route: the service's own split if all hardware is
// eligible, the only eligible subset, or a virtual service that splits over several subsets. A strict
// rule has separate subsets that fail over only among themselves. Without eligible hardware, its
// requests go to a service without instances, and fail.
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
			fmt.Sprintf("rule %q is strict and no registered hardware matches it: its requests fail", r.Name))
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

// protocol returns the protocol of the service's service-defaults, whether ours or hand-written. All
// services of a discovery chain must have the same protocol.
func (b *builder) protocol() string {
	if o, ok := b.view.Have[Key{Defaults, b.view.Service}]; ok && !o.Ours {
		return o.Entry.Protocol
	}
	return b.view.protocolOf()
}

// free returns an error if the entries of a virtual service cannot be written.
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

// Groups returns the groups with a subset in a resolver of ours.
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
