package dispatch

import (
	"cmp"
	"math"
	"slices"
)

// Charge is how far a tenant is ahead of its turn at one priority and placement, in mean requests
// divided by its weight.
type Charge struct {
	Tenant              string
	Priority, Placement int
	Ahead               float64
}

// MaxCharges limits the length of Charges.
const MaxCharges = 1024

// Charges lists the tenants that got more than their share; all other tenants start equal. If there
// are more than MaxCharges, it lists those that are furthest ahead.
func (q *Queue) Charges() []Charge { return q.waitlist.charges() }

// charges is Queue.Charges.
func (w *waitlist) charges() []Charge {
	var out []Charge
	for urgency, c := range w.priorities {
		for name, a := range c.accounts {
			for at, l := range a.lanes {
				if l != nil && l.charge > c.floor[at] {
					out = append(out, Charge{name, urgency, at, l.charge - c.floor[at]})
				}
			}
		}
	}
	if len(out) > MaxCharges {
		slices.SortFunc(out, func(a, b Charge) int { return cmp.Compare(b.Ahead, a.Ahead) })
		out = out[:MaxCharges]
	}
	return out
}

// Charged adopts the charges of another queue of the same service.
func (q *Queue) Charged(all []Charge) { q.waitlist.charged(all) }

// charged is Queue.Charged.
func (w *waitlist) charged(all []Charge) {
	for _, c := range w.priorities {
		clear(c.floor)
		for _, a := range c.accounts {
			for _, l := range a.lanes {
				if l != nil {
					l.charge = 0
				}
			}
		}
	}
	for _, c := range all[:min(len(all), MaxCharges)] {
		if c.Priority < 0 || c.Priority >= len(w.priorities) || c.Placement < 0 || c.Placement >= len(w.placements) ||
			!(c.Ahead > 0) || math.IsInf(c.Ahead, 0) {
			continue
		}
		w.lane(c.Tenant, c.Priority, c.Placement).charge = c.Ahead
	}
	for _, t := range w.tenants {
		t.each((*lane).sync)
	}
}

// Tenants returns the number of tenants that have their own account.
func (q *Queue) Tenants() int { return len(q.waitlist.tenants) }
