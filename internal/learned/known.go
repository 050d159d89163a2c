package learned

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Source says where a figure comes from.
type Source string

// The sources of knowledge about a kind of replica, best first. What a gateway learns itself has
// priority over all of them, because it uses them only as its first assumption. Last comes the
// hardware table, internal/gpu, if nothing was measured.
const (
	FromGateways Source = "gateways" // published by gateways, from the requests that they served
	FromProfile  Source = "profile"  // measured by aliquot bench
)

// Trusted reports whether a rate that gateways published is trusted, by the number of requests
// behind it and its age.
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
	served := usualOf(out, trusted).orProfile(newest)
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

// Newest returns, for each kind of replica, the newest profile that is not older than
// ProfileBelieved, sorted by class and slices.
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

// part returns the fraction of a GPU that slices are, or the number of GPUs.
func part(key string) float64 {
	have, of, _ := ParseSlices(key)
	return float64(have) / float64(max(1, of))
}

// orProfile replaces published figures that are not trusted by those of profiles.
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

// meanRequest is the mean size of a service's requests in tokens, and how many requests a replica serves
// at once; 0 if gateways have not published it.
type meanRequest struct{ prompt, output, slots float64 }

// orProfile uses the request of the newest profile if the size is unknown, so that all kinds of replica
// are compared with the same request.
func (u meanRequest) orProfile(profiles []Profile) meanRequest {
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

// usualOf returns the mean size of requests from curves with a trusted number of samples, at any
// age: sizes change less than speeds, but a few samples say little about them.
func usualOf(classes map[string]Merged, trusted Trusted) meanRequest {
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
	return meanRequest{p.value(), o.value(), s.value()}
}
