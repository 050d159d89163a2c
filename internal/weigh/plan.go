package weigh

import (
	"cmp"
	"slices"
)

// Observed is a config entry in Consul.
type Observed struct {
	Entry Entry
	// Ours reports whether the entry has the owner mark.
	Ours bool
	// Exact reports whether writing Entry would change nothing in Consul. An entry of ours that is
	// not exact is rewritten.
	Exact bool
	// Index is the ModifyIndex for check-and-set, 0 if it has to be read again.
	Index uint64
}

// Step is one write: it sets Entry, or removes Entry.Key.
type Step struct {
	Delete bool
	Entry  Entry
}

// Next returns the first step from the present entries to the wanted ones. It returns false if
// there is none left. After every step, entries refer only to what exists: kinds are written in
// order and removed in reverse, and a subset stays in the resolver until nothing refers to it. Next
// neither writes nor removes entries that are not ours.
func Next(have map[Key]Observed, want map[Key]Entry) (Step, bool) {
	for _, kind := range Kinds() {
		for _, key := range keysOf(want, kind) {
			e := want[key]
			if kind == Resolver {
				e.Subsets = keepReferenced(e, have)
			}
			o, exists := have[key]
			if exists && (!o.Ours || o.Exact && Same(o.Entry, e)) {
				continue
			}
			return Step{Entry: e}, true
		}
	}
	kinds := Kinds()
	slices.Reverse(kinds)
	for _, kind := range kinds {
		for _, key := range keysOf(have, kind) {
			if _, wanted := want[key]; !wanted && have[key].Ours {
				return Step{Delete: true, Entry: Entry{Key: key}}, true
			}
		}
	}
	return Step{}, false
}

// keepReferenced returns a resolver's wanted subsets, and those in Consul to which a present
// splitter or router still refers.
func keepReferenced(want Entry, have map[Key]Observed) []Subset {
	o, ok := have[want.Key]
	if !ok {
		return want.Subsets
	}
	out := slices.Clone(want.Subsets)
	has := func(name string) bool {
		return slices.ContainsFunc(out, func(s Subset) bool { return s.Name == name })
	}
	for _, s := range o.Entry.Subsets {
		if !has(s.Name) && referenced(want.Name, s.Name, have) {
			out = append(out, s)
		}
	}
	for i, s := range out {
		out[i].Failover = slices.DeleteFunc(slices.Clone(s.Failover), func(f string) bool { return !has(f) })
	}
	SortSubsets(out)
	return out
}

func referenced(service, subset string, have map[Key]Observed) bool {
	for _, o := range have {
		for _, s := range o.Entry.Splits {
			if s.Service == service && s.Subset == subset {
				return true
			}
		}
		for _, r := range o.Entry.Routes {
			if r.Service == service && r.Subset == subset {
				return true
			}
		}
	}
	return false
}

// Same reports whether two entries are equivalent. An empty list equals a missing one.
func Same(a, b Entry) bool {
	return a.Key == b.Key && a.Protocol == b.Protocol && a.Tuning == b.Tuning &&
		slices.EqualFunc(a.Subsets, b.Subsets, func(x, y Subset) bool {
			return x.Name == y.Name && x.Filter == y.Filter && slices.Equal(x.Failover, y.Failover)
		}) &&
		slices.Equal(a.Splits, b.Splits) &&
		slices.EqualFunc(a.Routes, b.Routes, func(x, y Route) bool {
			return x.PathPrefix == y.PathPrefix && x.Service == y.Service && x.Subset == y.Subset &&
				slices.Equal(x.Headers, y.Headers)
		})
}

// SortSubsets sorts subsets by name, as in Entry.Subsets.
func SortSubsets(s []Subset) {
	slices.SortFunc(s, func(a, b Subset) int { return cmp.Compare(a.Name, b.Name) })
}

func keysOf[V any](m map[Key]V, kind Kind) []Key {
	var keys []Key
	for k := range m {
		if k.Kind == kind {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Compare(a.Name, b.Name) })
	return keys
}
