package weigh

import (
	"cmp"
	"slices"
)

// Observed is a config entry as Consul has it.
type Observed struct {
	Entry Entry
	// Ours says that the entry bears the owner mark.
	Ours bool
	// Exact says that Entry holds all there is in it. An entry of ours to which
	// someone added a field is not exact and is rewritten.
	Exact bool
	// Index is its ModifyIndex for check-and-set; 0 when it has to be read again.
	Index uint64
}

// Step is one write: Entry as it is to be, or the removal of Entry.Key.
type Step struct {
	Delete bool
	Entry  Entry
}

// Next returns the first step on the way from what Consul has to what is wanted;
// the second result is false when there is none left. Following it one by one,
// every entry only ever refers to what exists: kinds are written in their order,
// removed in reverse, and a subset leaves the resolver after the last reference
// to it. Entries that are not ours are neither written nor removed.
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

// keepReferenced adds to a resolver's wanted subsets those that Consul has and
// that an existing splitter or router still refers to.
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

// Same says whether two entries mean the same; an empty list equals a missing one.
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

// SortSubsets puts subsets in the order in which a resolver's value holds them.
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
