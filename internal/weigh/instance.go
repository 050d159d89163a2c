// Package weigh decides how to divide the traffic of a service between hardware classes. It takes
// instances and speeds, and returns Consul config entries as plain values. It reads no clock and does
// not access Consul; package router does both.
package weigh

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// maxInstanceWeight is the largest weight that an instance may claim: 16 of the fastest GPUs in the
// table, rounded up.
const maxInstanceWeight = 64

// Instance is one registered instance of a service.
type Instance struct {
	ID     string // for messages only
	Group  Group
	Weight float64 // weight that the instance claims, 0 for none
	Slots  int     // 0 if unknown
	// Affinity is the instance's list of headers for a ring hash, unparsed; see Headers.
	Affinity string
	Healthy  bool
}

// Refused is an instance that is ignored because of its meta. Class is the class that it claims.
// Weight is its claimed weight if that is invalid, otherwise "".
type Refused struct{ Class, Weight string }

// Group is a kind of instance that gets one share: a hardware class and the part of a GPU that an
// instance has. It becomes a subset of the service-resolver.
type Group struct {
	Class string
	// Slices is the number of slices out of Total. Both are 0 for a whole GPU; Total is 0 if unknown.
	Slices, Total int
}

var (
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	groupName = regexp.MustCompile(`^(.+?)(?:-s([1-9][0-9]*)(?:of([1-9][0-9]*))?)?$`)
	sliced    = regexp.MustCompile(`-s[0-9]+(of[0-9]+)?$`)
)

// maxClass leaves space in a subset's name (63 characters) for slices and a rule.
const maxClass = 32

// Name returns the subset's name: "h100" for whole GPUs, "h100-s6" or "h100-s6of20" for slices. It
// is a DNS label, as Consul requires.
func (g Group) Name() string {
	switch {
	case g.Slices == 0:
		return g.Class
	case g.Total == 0:
		return fmt.Sprintf("%s-s%d", g.Class, g.Slices)
	default:
		return fmt.Sprintf("%s-s%dof%d", g.Class, g.Slices, g.Total)
	}
}

// GroupOf returns the group of an instance with slices out of total.
func GroupOf(class string, slices, total int) Group {
	if slices <= 1 && total <= 1 {
		return Group{Class: class}
	}
	return Group{class, slices, total}
}

// ParseGroup is the inverse of Group.Name.
func ParseGroup(name string) (Group, error) {
	m := groupName.FindStringSubmatch(name)
	if m == nil || !label.MatchString(name) {
		return Group{}, fmt.Errorf("subset %q is not <class>, <class>-s<slices> or <class>-s<slices>of<total>", name)
	}
	g := Group{Class: m[1]}
	g.Slices, _ = strconv.Atoi(m[2])
	g.Total, _ = strconv.Atoi(m[3])
	return g, g.check()
}

func (g Group) check() error {
	switch {
	case !label.MatchString(g.Class) || len(g.Class) > maxClass || strings.Contains(g.Class, "--") ||
		sliced.MatchString(g.Class):
		return fmt.Errorf("%s %q is not a hardware class: want a DNS label of at most %d characters (a-z, "+
			"0-9 and single dashes) that does not end in -s<number>", gpu.MetaClass, g.Class, maxClass)
	case g.Slices < 0 || g.Slices > 1000 || g.Total < 0 || g.Total > 1000:
		return fmt.Errorf("%d slices of %d: want 1 to 1000", g.Slices, g.Total)
	case g.Total > 1 && g.Slices > g.Total:
		return fmt.Errorf("%d slices of %d: want at most %d", g.Slices, g.Total, g.Total)
	}
	return nil
}

// Filter returns the bexpr that selects the group's instances in Consul. An empty key counts as a
// missing one. If the group is alone in its class, the filter tests only the class, because Consul
// spends much of a write on parsing longer filters. The filter excludes instances that claim one of
// the refused weights.
func (g Group) Filter(alone bool, refused ...string) string {
	filter := g.filter(alone)
	odd := false
	for _, weight := range refused {
		if plainWeight.MatchString(weight) {
			filter += fmt.Sprintf(" and Service.Meta.%s != %q", gpu.MetaWeight, weight)
		} else {
			odd = true
		}
	}
	if odd || len(filter) > maxFilter {
		unset := fmt.Sprintf("%q not in Service.Meta or Service.Meta.%s == %q", gpu.MetaWeight, gpu.MetaWeight, "")
		filter = fmt.Sprintf("%s and (%s or Service.Meta.%s matches %q)", g.filter(alone), unset,
			gpu.MetaWeight, decimal)
	}
	return filter
}

// maxFilter is the length of a filter above which refused weights are not listed one by one.
const maxFilter = 2000

var plainWeight = regexp.MustCompile(`^[A-Za-z0-9.+_-]{1,64}$`)

// decimal matches a grant's weight. All numbers that it matches are valid except those out of range.
const decimal = `^[0-9]{1,2}([.][0-9]{1,6})?$`

func (g Group) filter(alone bool) string {
	is := func(key, value string) string { return fmt.Sprintf("Service.Meta.%s == %q", key, value) }
	unset := func(key string) string { return fmt.Sprintf("%q not in Service.Meta or %s", key, is(key, "")) }
	class := is(gpu.MetaClass, g.Class)
	switch {
	case alone:
		return class
	case g.Slices == 0:
		return fmt.Sprintf("%s and (%s or %s) and (%s or %s)", class,
			unset(gpu.MetaSlices), is(gpu.MetaSlices, "1"), unset(gpu.MetaTotal), is(gpu.MetaTotal, "1"))
	case g.Total == 0:
		return fmt.Sprintf("%s and %s and (%s)", class, is(gpu.MetaSlices, strconv.Itoa(g.Slices)),
			unset(gpu.MetaTotal))
	default:
		return fmt.Sprintf("%s and %s and %s", class, is(gpu.MetaSlices, strconv.Itoa(g.Slices)),
			is(gpu.MetaTotal, strconv.Itoa(g.Total)))
	}
}

// ParseInstance reads an instance from its service meta. It returns an error with the key for a value
// that must not reach a config entry or a sum.
func ParseInstance(id string, meta map[string]string, healthy bool) (Instance, error) {
	in := Instance{ID: id, Healthy: healthy, Group: Group{Class: meta[gpu.MetaClass]}}
	fail := func(err error) (Instance, error) { return Instance{}, fmt.Errorf("instance %q: %w", id, err) }
	if in.Group.Class == "" {
		return fail(fmt.Errorf("no %s in its service meta, so it is in no subset and gets no traffic", gpu.MetaClass))
	}
	var err error
	if in.Group.Slices, err = count(meta, gpu.MetaSlices); err != nil {
		return fail(err)
	}
	if in.Group.Total, err = count(meta, gpu.MetaTotal); err != nil {
		return fail(err)
	}
	g := &in.Group
	if g.Total > 1 && g.Slices == 0 {
		return fail(fmt.Errorf("%s=%d without %s", gpu.MetaTotal, g.Total, gpu.MetaSlices))
	}
	*g = GroupOf(g.Class, g.Slices, g.Total)
	if err := g.check(); err != nil {
		return fail(err)
	}
	if in.Weight, err = claim(meta[gpu.MetaWeight]); err != nil {
		return fail(err)
	}
	if n, err := strconv.Atoi(meta[gpu.MetaSlots]); err == nil && n > 0 && n <= 1e6 {
		in.Slots = n
	}
	in.Affinity = strings.TrimSpace(meta[gpu.MetaAffinity])
	return in, nil
}

// RefusedBy describes an instance that ParseInstance refused, for the filters of subsets.
func RefusedBy(meta map[string]string) Refused {
	r := Refused{Class: meta[gpu.MetaClass]}
	if _, err := claim(meta[gpu.MetaWeight]); err != nil {
		r.Weight = meta[gpu.MetaWeight]
	}
	return r
}

// claim parses a weight. It returns 0 if the weight is empty, or 0 because the device plugin does not
// know it.
func claim(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	w, err := strconv.ParseFloat(text, 64)
	if err == nil && w == 0 {
		return 0, nil
	}
	if err != nil || !positive(w) || w > maxInstanceWeight {
		return 0, fmt.Errorf("%s=%q: want a number above 0 and at most %d", gpu.MetaWeight, text, maxInstanceWeight)
	}
	return w, nil
}

// count parses a whole number, and accepts only the spelling with which a subset's filter compares.
// It returns 0 if the key is empty.
func count(meta map[string]string, key string) (int, error) {
	text := meta[key]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("%s=%q: want a whole number from 1", key, text)
	}
	return n, nil
}

// positive reports whether f is a finite number above 0.
func positive(f float64) bool { return f > 0 && !math.IsInf(f, 0) && !math.IsNaN(f) }
