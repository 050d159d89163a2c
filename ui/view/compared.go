package view

import (
	"maps"
	"slices"
)

// figure rounds a value to three decimals for a chart.
func figure(v float64) *float64 {
	v = float64(int64(v*1000+0.5)) / 1000
	return &v
}

// compare adds the decided and the real replicas by class, and their costs.
func (r *Replay) compare(out *Outlook, m *Memory) {
	costs := map[string]float64{}
	for _, p := range r.policies {
		if _, known := costs[p.class()]; !known {
			out.Classes = append(out.Classes, OutlookClass{Name: p.class()})
		}
		costs[p.class()] = p.config.Classes[p.config.Own].Cost
	}
	for i := range out.Classes {
		c := &out.Classes[i]
		for _, s := range r.steps {
			c.Would = append(c.Would, r.countAt(s, c.Name))
			c.Was = append(c.Was, was(m.stands(s.second), c.Name))
		}
	}
	if slices.Equal(slices.Collect(maps.Keys(costs)), []string{""}) {
		return
	}
	out.Cost = &Compared{}
	for at := range r.steps {
		out.Cost.Would = append(out.Cost.Would, out.sum(costs, func(c *OutlookClass) *float64 { return c.Would[at] }))
		out.Cost.Was = append(out.Cost.Was, out.sum(costs, func(c *OutlookClass) *float64 { return c.Was[at] }))
	}
}

func (r *Replay) countAt(s step, class string) *float64 {
	if !s.known {
		return nil
	}
	sum := 0
	for i, p := range r.policies {
		if p.class() == class {
			sum += s.counts[i]
		}
	}
	return number(sum)
}

func was(by map[string]Stand, class string) *float64 {
	if by == nil {
		return nil
	}
	sum := 0
	for name, s := range by {
		if class == "" || name == class {
			sum += s.Ready + s.Starting
		}
	}
	return number(sum)
}

// sum returns the cost of the counts of a step, nil if one is unknown.
func (o *Outlook) sum(costs map[string]float64, count func(*OutlookClass) *float64) *float64 {
	total := 0.0
	for i := range o.Classes {
		n := count(&o.Classes[i])
		if n == nil {
			return nil
		}
		total += *n * costs[o.Classes[i].Name]
	}
	return figure(total)
}
