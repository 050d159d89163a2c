package learned

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Source says where a figure is from.
type Source string

// The sources of what is known of a kind of replica, best first. What a gateway learns
// itself comes before all of them, since it takes them for what it assumes at first; after
// all of them comes the hardware table, internal/gpu, where nothing was measured.
const (
	FromGateways Source = "gateways" // published by gateways, from the requests that they served
	FromProfile  Source = "profile"  // measured by aliquot bench
)

// Trusted reports whether what gateways published is trusted, by the number of requests that it
// was learned from and its age.
type Trusted func(samples float64, age time.Duration) bool

// Known is what is known of each class of a service. This is the one place where
// published rates and profiles meet:
//
//   - What gateways published counts where it is trusted by its samples and its age. It never
//     counts when it is older than Believed.
//   - Else the newest profile of the kind of replica counts that is not older than
//     ProfileBelieved, for requests of the size that the service serves, or where nobody
//     has published that of as many requests as are trusted, of the size that was benchmarked
//     last.
//   - Else what gateways published counts after all, so that callers can say why they
//     pass it over.
//
// A kind that is not in the result has the hardware table only. Curves are taken one by
// one, so a class may have curves from both.
func Known(now time.Time, rates []Rates, profiles []Profile, trusted Trusted) map[string]Merged {
	out := Merge(now, rates...)
	newest := Newest(now, profiles)
	served := usualOf(out, trusted).or(newest)
	sums := map[string]*sum{}
	for _, p := range newest {
		c, ok := p.class(served)
		if !ok {
			continue
		}
		if sums[p.Class] == nil {
			sums[p.Class] = &sum{tokens: map[string]*curves{}}
		}
		sums[p.Class].add(c, c.Samples, Rates{Updated: p.Measured}, now)
	}
	for name, s := range sums {
		out[name] = out[name].orProfile(s, now, trusted)
	}
	return out
}

// Newest is the newest profile of each kind of replica that is not older than
// ProfileBelieved, by class and slices.
func Newest(now time.Time, profiles []Profile) []Profile {
	newest := map[[2]string]Profile{}
	for _, p := range profiles {
		key := [2]string{p.Class, p.Slices}
		if last, ok := newest[key]; p.believed(now) && (!ok || p.Measured.After(last.Measured)) {
			newest[key] = p
		}
	}
	return slices.SortedFunc(maps.Values(newest), func(a, b Profile) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(part(a.Slices), part(b.Slices)),
			cmp.Compare(a.Slices, b.Slices))
	})
}

// part is which part of a GPU slices are, or how many GPUs.
func part(key string) float64 {
	have, of, _ := ParseSlices(key)
	return float64(have) / float64(max(1, of))
}

// orProfile fills in from profiles what is not trusted of what gateways published.
func (m Merged) orProfile(s *sum, now time.Time, trusted Trusted) Merged {
	p := s.merged()
	age := now.Sub(m.Updated).Abs()
	if m.Samples == 0 || !trusted(m.Samples, age) {
		tokens := m.Tokens
		m.Class, m.Updated, m.Source = p.Class, p.Updated, FromProfile
		m.Tokens = tokens
	}
	for size, curve := range p.Tokens {
		if have, ok := m.Tokens[size]; ok && trusted(have.Samples, age) {
			continue
		}
		if m.Tokens == nil {
			m.Tokens = map[string]Curve{}
		}
		if m.Sizes == nil {
			m.Sizes = map[string]Source{}
		}
		m.Tokens[size], m.Sizes[size] = curve, FromProfile
	}
	return m
}

// usual is the mean tokens of a prompt and an answer of a service, and how many requests a
// replica takes at once; 0 where gateways have not published any.
type usual struct{ prompt, output, slots float64 }

// or takes the request of the newest profile where none is known, so that all kinds of
// replica are compared by the same.
func (u usual) or(profiles []Profile) usual {
	if u.prompt > 0 {
		return u
	}
	var last time.Time
	for _, p := range profiles {
		if p.Curve != nil && p.Curve.Prompt > 0 && p.Measured.After(last) {
			last, u.prompt, u.output = p.Measured, p.Curve.Prompt, p.Curve.Output
		}
	}
	return u
}

// usualOf takes the size of requests from curves of as many as are trusted at any age: how large
// they are changes less than how fast they are served, but a few say little of it.
func usualOf(classes map[string]Merged, trusted Trusted) usual {
	var p, o, s mean
	for _, m := range classes {
		s.add(m.Slots, m.Samples)
		for _, c := range m.Tokens {
			if c.Prompt > 0 && trusted(c.Samples, 0) {
				p.add(c.Prompt, c.Samples)
				o.add(c.Output, c.Samples)
			}
		}
	}
	return usual{p.value(), o.value(), s.value()}
}
