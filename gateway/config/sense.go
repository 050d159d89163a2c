package config

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Check checks the files to which a configuration refers and that may be missing while it is
// parsed, for example because they are written later.
func (c *Config) Check() error {
	for _, s := range c.Services {
		if s.Source.File == "" {
			continue
		}
		if _, err := Replicas(s.Source.File); err != nil {
			return fmt.Errorf("service %q: %w", s.Name, err)
		}
	}
	return nil
}

// listeners checks the top-level settings and those of the listeners.
func (d *decoder) listeners(f *fileBody, c *Config, top hcl.Range) {
	for i, name := range c.Priorities {
		if name == "" || slices.Contains(c.Priorities[:i], name) {
			d.fail(top, "priorities has %q, which is empty or a duplicate: want different names", name)
		}
	}
	at, admin := top, top
	if f.Listen != nil {
		at = f.Listen.Range
	}
	if f.Admin != nil {
		admin = f.Admin.Range
	}
	if c.Listen.MaxConnections < 1 || c.Listen.MaxStreams < 1 {
		d.fail(at, "max_connections is %d and max_streams %d: want at least 1", c.Listen.MaxConnections,
			c.Listen.MaxStreams)
	}
	for _, one := range []struct {
		address string
		at      hcl.Range
	}{{c.Listen.Address, at}, {c.Admin, admin}} {
		if _, port, err := net.SplitHostPort(one.address); err != nil || !isPort(port, 0) {
			d.fail(one.at, "address is %q: want \"host:port\" or \":port\"", one.address)
		}
	}
	if _, port, _ := net.SplitHostPort(c.Admin); c.Admin == c.Listen.Address && port != "0" {
		d.fail(admin, "the admin address %s is also the address of the public listener: want another", c.Admin)
	}
}

// reachable reports an error for each service that no request can reach, because earlier services
// have all of its routes, in the same words.
func (d *decoder) reachable(blocks []serviceBody, services []Service) {
	taken := map[string]string{}
	for i, s := range services {
		own := map[string]bool{}
		for _, r := range s.Routes {
			for _, word := range r.words() {
				own[word] = true
			}
		}
		other, hidden := "", true
		for word := range own {
			if by, ok := taken[word]; ok {
				other = by
			} else {
				taken[word], hidden = s.Name, false
			}
		}
		if hidden && !named(s.Name, services) {
			d.fail(blocks[i].Range,
				"service %q: no request can reach it, because the earlier service %q has the same routes",
				s.Name, other)
		}
	}
}

// named reports whether another service sends requests to this one, by a fallback or a split.
func named(name string, services []Service) bool {
	return slices.ContainsFunc(services, func(s Service) bool {
		return s.Fallback == name || slices.ContainsFunc(s.Splits, func(p Split) bool { return p.To == name })
	})
}

// words returns a route's alternatives; a request that meets one of them matches the route.
func (r *Route) words() []string {
	var headers []string
	for name, value := range r.Headers {
		headers = append(headers, strings.ToLower(name)+": "+value)
	}
	slices.Sort(headers)
	var out []string
	for _, host := range orNone(r.Hosts) {
		for _, model := range orNone(r.Models) {
			out = append(out, fmt.Sprintf("%q %q %q %q", host, strings.TrimSuffix(r.PathPrefix, "/"), headers, model))
		}
	}
	return out
}

func orNone(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

// numbers reports values in a service's blocks that are out of range.
func (d *decoder) numbers(b *serviceBody) {
	least := func(name string, v *int, least int) {
		if v != nil && *v < least {
			d.fail(b.Range, "service %q: %s is %d: want at least %d", b.Name, name, *v, least)
		}
	}
	if u := b.Upstream; u != nil {
		least("retries", u.Retries, 0)
	}
	if q := b.Queue; q != nil {
		least("max", q.Max, 1)
		least("eject_failures", q.Failures, 1)
		least("send_ahead", q.Ahead, 0)
	}
	if b.SLO != nil && b.SLO.Quantile != nil && !(*b.SLO.Quantile >= 0.5 && *b.SLO.Quantile <= 0.9999) {
		d.fail(b.Range, "service %q: quantile is %g: want 0.5 to 0.9999", b.Name, *b.SLO.Quantile)
	}
	for _, r := range b.Routes {
		for _, host := range r.Hosts {
			if rest := strings.TrimPrefix(host, "*."); rest == "" || strings.ContainsAny(rest, "*/: ") {
				d.fail(b.Range,
					"service %q: hosts has %q: want a name such as \"models.example.org\" or \"*.example.org\"; "+
						"omit hosts to match every host", b.Name, host)
			}
		}
	}
}
