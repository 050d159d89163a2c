package config

import (
	"fmt"
	"slices"
)

// elsewhere checks splits and fallbacks once all services are known.
func (d *decoder) elsewhere(bodies []serviceBody, services []Service) {
	find := func(name string) *Service {
		if i := slices.IndexFunc(services, func(s Service) bool { return s.Name == name }); i >= 0 {
			return &services[i]
		}
		return nil
	}
	for i, b := range bodies {
		sum := 0.0
		for j, p := range b.Splits {
			s := services[i].Splits[j]
			switch to := find(s.To); {
			case to == nil || s.To == b.Name:
				d.fail(p.Range, "service %q: split to %q: want the name of another service block", b.Name, s.To)
			case len(to.Splits) > 0:
				d.fail(p.Range, "service %q: split to %q, which has split blocks itself: want a service without them",
					b.Name, s.To)
			}
			if sum += s.Percent; !(s.Percent > 0 && sum <= 100) {
				d.fail(p.Range, "service %q: percent is %g: want more than 0, and a sum of at most 100 for all splits",
					b.Name, s.Percent)
			}
		}
		if text := circle(b.Name, find); text != "" {
			d.fail(b.Range, "service %q: %s", b.Name, text)
		}
	}
}

// circle returns what is wrong with a chain of fallbacks, or "".
func circle(from string, find func(string) *Service) string {
	seen := []string{from}
	for s := find(from); s.Fallback != ""; {
		next := find(s.Fallback)
		if next == nil {
			return fmt.Sprintf("fallback to %q: want the name of a service block", s.Fallback)
		}
		if slices.Contains(seen, next.Name) {
			return fmt.Sprintf("its fallbacks form a loop through %q: remove one of them", next.Name)
		}
		seen, s = append(seen, next.Name), next
	}
	return ""
}
