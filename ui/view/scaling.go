package view

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/scale"
)

// Scaling is the view of the policies and what they last decided.
type Scaling struct {
	Sources  []Source     `json:"sources"`
	Policies []PolicyRow  `json:"policies"`
	Actions  []ServiceAct `json:"actions"`
	// Next is what the policies of the service that is looked at would do now.
	Next []Next `json:"next"`
}

// PolicyRow is a scaled group.
type PolicyRow struct {
	Service string `json:"service"`
	Job     string `json:"job"`
	Group   string `json:"group"`
	Class   string `json:"class,omitempty"`
	Enabled bool   `json:"enabled"`
	Count   int    `json:"count"`
	Min     int    `json:"min"`
	Max     int    `json:"max"`
	// Cost is what the count costs by the policy's cost of the class; -1 where the
	// policy gives no classes.
	Cost float64 `json:"cost"`
	// Speed is what one busy slot serves per second, as measured; 0 while unknown.
	Speed float64 `json:"speed"`
	// Demand and Plan, in slots and replicas, are of the last action; -1 without one.
	Demand float64    `json:"demand"`
	Plan   float64    `json:"plan"`
	At     *time.Time `json:"at,omitempty"`
}

// ServiceAct is a scaling action with the service that it was for.
type ServiceAct struct {
	Service string `json:"service"`
	ChangeRow
}

// ScalingView is the view that shows them.
const ScalingView = "scaling"

// ScalingOf makes the view of scaling, with what would be done for one service.
func ScalingOf(f Facts, service string) Scaling {
	out := Scaling{Sources: f.Sources, Policies: []PolicyRow{}, Actions: []ServiceAct{}, Next: []Next{}}
	out.Next = append(out.Next, f.Next[service]...)
	serves := map[group]string{}
	for _, p := range f.Policies {
		serves[group{p.Namespace, p.Job, p.Group}] = p.Service
		out.Policies = append(out.Policies, policyRow(p, f.Changes))
	}
	slices.SortFunc(out.Policies, func(a, b PolicyRow) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Job, b.Job),
			strings.Compare(a.Group, b.Group))
	})
	for _, c := range f.Changes {
		if service, ok := serves[group{c.Namespace, c.Job, c.Group}]; ok {
			out.Actions = append(out.Actions,
				ServiceAct{service, ChangeRow{c.At, c.Job, c.Group, c.From, c.To, c.Reason, c.Failed}})
		}
	}
	return out
}

func policyRow(p Policy, changes []Change) PolicyRow {
	row := PolicyRow{Service: p.Service, Job: p.Job, Group: p.Group, Class: p.Settings["class"], Enabled: p.Enabled,
		Count: p.Count, Min: p.Min, Max: p.Max, Cost: -1, Demand: -1, Plan: -1}
	row.Speed = p.Rates[row.Class]
	if classes, err := scale.ParseClasses(p.Settings["classes"]); err == nil {
		for _, c := range classes {
			if c.Name == row.Class {
				row.Cost = c.Cost * float64(p.Count)
			}
		}
	}
	for _, c := range changes { // the newest stands first
		if c.Namespace == p.Namespace && c.Job == p.Job && c.Group == p.Group && c.Demand != nil {
			at := c.At
			row.At, row.Demand, row.Plan = &at, *c.Demand, float64(c.To)
			break
		}
	}
	return row
}

// counted says a scaling action in words.
func counted(c Change) string {
	return strings.TrimSpace(strconv.Itoa(c.From) + " → " + strconv.Itoa(c.To) + ": " + c.Reason)
}
