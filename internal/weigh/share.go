package weigh

import (
	"fmt"
	"sort"
	"time"
)

// Whole is 100% in the unit of a share, a hundredth of a percent: the finest that
// Consul keeps.
const Whole = 10000

// Load is what a group can carry.
type Load struct {
	Group string
	Count int     // healthy instances
	Rate  float64 // of one instance, any unit that all groups share
}

// Share is a group's part of a service's traffic.
type Share struct {
	Group      string
	Count      int // healthy instances, of which Hundredths is the consequence
	Hundredths int // of a percent; all shares of a service sum to Whole
}

// Shares divides Whole between groups in proportion to Count x Rate, by largest
// remainder; of equal remainders the earlier name gets the odd hundredth. Groups
// without instances get 0. It fails when no group has an instance, and on a count
// or rate that is no number or is below 0.
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

// Limits keep a service's entries from being rewritten for nothing.
type Limits struct {
	// MinChange, in hundredths of a percent, is the least change of any share that
	// is worth a write.
	MinChange int
	// Interval is the least time between two writes for one service.
	Interval time.Duration
	// Retain is how long a group without any registered instance keeps its subset,
	// and a service without any its entries.
	Retain time.Duration
}

// DefaultLimits are 1 point, 1 second and 10 minutes.
func DefaultLimits() Limits {
	return Limits{MinChange: 100, Interval: time.Second, Retain: 10 * time.Minute}
}

// Decision is whether new shares are to be written.
type Decision struct {
	Write bool
	// Urgent says that a group with a share lost its last healthy instance.
	Urgent bool
	// Wait is how long to wait before asking again; 0 when there is nothing to wait for.
	Wait   time.Duration
	Reason string
}

// Decide compares the shares that Consul has with those just computed. A group
// that lost its last healthy instance is zeroed at once; anything else waits for
// the interval since lastWrite, and is dropped when no share moves by MinChange
// and no group appears, vanishes or comes back from 0.
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

// emptied says whether a group that has a share has no healthy instance now.
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
