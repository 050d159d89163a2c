package view

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/scale"
)

// Scaling is the view of the policies and their last decisions.
type Scaling struct {
	Sources  []Source     `json:"sources"`
	Policies []PolicyRow  `json:"policies"`
	Actions  []ServiceAct `json:"actions"`
	// Next are the present decisions of the selected service's policies.
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
	// Cost is the cost of the count, -1 if the policy has no classes.
	Cost float64 `json:"cost"`
	// Speed is the measured speed of one busy slot per second, 0 while unknown.
	Speed float64 `json:"speed"`
	// Demand, in slots, and Plan, in replicas, are those of the last action, -1 without one.
	Demand float64    `json:"demand"`
	Plan   float64    `json:"plan"`
	At     *time.Time `json:"at,omitempty"`
}

// ServiceAct is a scaling action with its service.
type ServiceAct struct {
	Service string `json:"service"`
	ChangeRow
}

// ScalingView is the name of the view of scaling.
const ScalingView = "scaling"

// ScalingOf returns the view of scaling, with the present decisions for one service.
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
	for _, c := range changes { // the newest is first
		if c.Namespace == p.Namespace && c.Job == p.Job && c.Group == p.Group && c.Demand != nil {
			at := c.At
			row.At, row.Demand, row.Plan = &at, *c.Demand, float64(c.To)
			break
		}
	}
	return row
}

// counted describes a scaling action.
func counted(c Change) string {
	return strings.TrimSpace(strconv.Itoa(c.From) + " → " + strconv.Itoa(c.To) + ": " + c.Reason)
}
