package weigh

import (
	"fmt"
	"sort"
	"time"
)

// Whole is 100% in the unit of a share, a hundredth of a percent. Consul supports no finer unit.
const Whole = 10000

// Load is the capacity of a group.
type Load struct {
	Group string
	Count int     // healthy instances
	Rate  float64 // of one instance, in any unit that is the same for all groups
}

// Share is a group's part of a service's traffic.
type Share struct {
	Group      string
	Count      int // healthy instances for which Hundredths was computed
	Hundredths int // of a percent; all shares of a service sum to Whole
}

// Shares divides Whole between groups in proportion to Count x Rate, by the largest remainder
// method. Among equal remainders, the earlier name gets the hundredth. Groups without instances get
// 0. Shares returns an error if no group has an instance, if a count is negative, or if the rate of
// a group with instances is not a finite number above 0.
func Shares(loads []Load) ([]Share, error) {
	out := make([]Share, len(loads))
	exact := make([]float64, len(loads))
	var sum, top float64
	for i, l := range loads {
		if l.Count < 0 || l.Count > 0 && !positive(l.Rate) {
			return nil, fmt.Errorf("group %q has %d instances at rate %v: want a count from 0 and a rate above 0",
				l.Group, l.Count, l.Rate)
		}
		out[i] = Share{Group: l.Group, Count: l.Count}
		if l.Count > 0 {
			top = max(top, l.Rate)
		}
	}
	if top == 0 {
		return nil, fmt.Errorf("no group has a healthy instance")
	}
	for i, l := range loads {
		if l.Count > 0 {
			// Dividing by the largest rate first keeps sums of huge rates finite.
			exact[i] = float64(l.Count) * (l.Rate / top)
			sum += exact[i]
		}
	}
	left := Whole
	order := make([]int, 0, len(loads))
	for i := range loads {
		exact[i] = exact[i] / sum * Whole
		out[i].Hundredths = int(exact[i])
		left -= out[i].Hundredths
		if out[i].Count > 0 {
			order = append(order, i)
		}
	}
	sort.SliceStable(order, func(a, b int) bool {
		ra, rb := exact[order[a]]-float64(out[order[a]].Hundredths), exact[order[b]]-float64(out[order[b]].Hundredths)
		if ra != rb {
			return ra > rb
		}
		return out[order[a]].Group < out[order[b]].Group
	})
	for i := 0; left > 0; i = (i + 1) % len(order) {
		out[order[i]].Hundredths++
		left--
	}
	return out, nil
}

// Limits prevent unnecessary writes of a service's entries.
type Limits struct {
	// MinChange is the smallest change of a share, in hundredths of a percent, that causes a write.
	MinChange int
	// Interval is the shortest time between two writes for one service.
	Interval time.Duration
	// Retain is how long a group without registered instances keeps its subset, and a service without
	// registered instances its entries.
	Retain time.Duration
}

// DefaultLimits returns 1 percentage point, 1 second and 10 minutes.
func DefaultLimits() Limits {
	return Limits{MinChange: 100, Interval: time.Second, Retain: 10 * time.Minute}
}

// Decision is the result of Decide.
type Decision struct {
	Write bool
	// Urgent reports whether a group with a share lost its last healthy instance.
	Urgent bool
	// Wait is the time after which to decide again, 0 if waiting changes nothing.
	Wait   time.Duration
	Reason string
}

// Decide decides whether to replace the shares in Consul, prev, with the computed ones, next. If a
// group with a share lost its last healthy instance, Decide writes at once. Other changes wait
// until the interval since lastWrite has passed. They are ignored if no share changes by MinChange
// and no group is new, is gone or gets its first share.
func Decide(prev, next []Share, lastWrite, now time.Time, l Limits) Decision {
	if emptied(prev, next) {
		return Decision{Write: true, Urgent: true, Reason: "a group with a share is empty"}
	}
	had := make(map[string]int, len(prev))
	for _, s := range prev {
		had[s.Group] = s.Hundredths
	}
	change, shape := 0, len(prev) != len(next)
	for _, s := range next {
		was, ok := had[s.Group]
		switch {
		case !ok || was == 0 && s.Hundredths > 0:
			shape = true
		}
		change = max(change, s.Hundredths-was, was-s.Hundredths)
	}
	switch wait := lastWrite.Add(l.Interval).Sub(now); {
	case change == 0 && !shape:
		return Decision{Reason: "unchanged"}
	case change < l.MinChange && !shape:
		return Decision{Reason: fmt.Sprintf("change of %d.%02d points is below %d.%02d", change/100, change%100,
			l.MinChange/100, l.MinChange%100)}
	case wait > 0:
		return Decision{Wait: min(wait, l.Interval), Reason: "written less than " + l.Interval.String() + " ago"}
	case shape:
		return Decision{Write: true, Reason: "groups changed"}
	default:
		return Decision{Write: true, Reason: fmt.Sprintf("change of %d.%02d points", change/100, change%100)}
	}
}

// emptied reports whether a group with a share has no healthy instance now.
func emptied(prev, next []Share) bool {
	for _, p := range prev {
		for _, n := range next {
			if p.Group == n.Group && p.Hundredths > 0 && n.Count == 0 {
				return true
			}
		}
	}
	return false
}
