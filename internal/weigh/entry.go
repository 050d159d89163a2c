package weigh

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kind is the kind of a Consul config entry, as in Consul's API.
type Kind string

// The kinds in the order in which they are written: an entry may refer to entries of earlier kinds.
// They are removed in reverse order.
const (
	Defaults Kind = "service-defaults"
	Resolver Kind = "service-resolver"
	Splitter Kind = "service-splitter"
	Router   Kind = "service-router"
)

// Kinds lists the kinds in the order of writing.
func Kinds() []Kind { return []Kind{Defaults, Resolver, Splitter, Router} }

// Inherited returns the key of the entry with the default protocol of services. The router only reads
// it.
func Inherited() Key { return Key{"proxy-defaults", "global"} }

// Key names a config entry.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string { return string(k.Kind) + "/" + k.Name }

// Entry is a config entry as a plain value. Only the field of its kind is set.
type Entry struct {
	Key
	Protocol string   // service-defaults: "http", "http2" or "grpc"
	Subsets  []Subset // service-resolver, by name
	Splits   []Split  // service-splitter
	Routes   []Route  // service-router, first match wins
	// Tuning is the tuning that the router wrote last; an operator may have changed it since. For an
	// entry that is not ours, it is the entry's own.
	Tuning Tuning
}

// Subset selects instances of a service that pass their checks.
type Subset struct {
	Name     string
	Filter   string   // bexpr over Service.Meta
	Failover []string // subsets to try in this order if this one is empty
}

// Split sends a part of the traffic to a subset of a service.
type Split struct {
	Service, Subset string
	Hundredths      int // of a percent
}

// Route sends matching requests to a service, or to one subset of it.
type Route struct {
	PathPrefix      string
	Headers         []HeaderMatch
	Service, Subset string
}

// HeaderMatch matches one request header; one of Exact, Regex and Present is set.
type HeaderMatch struct {
	Name, Exact, Regex string
	Present            bool
}

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,126}[A-Za-z0-9])?$`)
	headerName  = regexp.MustCompile(`^[A-Za-z0-9!#$&'*+.^_|~-]{1,64}$`)
)

// CheckService returns an error if a service's name cannot be used in config entries and in the paths
// of Consul's API.
func CheckService(name string) error {
	if !serviceName.MatchString(name) {
		return fmt.Errorf("service name %.140q: want at most 128 letters, digits, dashes and underscores", name)
	}
	return nil
}

// Validate checks a set of entries before they are written. Consul itself accepts some invalid
// values, such as a negative split.
func Validate(entries map[Key]Entry) error {
	for key, e := range entries {
		if key != e.Key {
			return fmt.Errorf("%s is stored under the key %s", e.Key, key)
		}
		if err := CheckService(key.Name); err != nil {
			return err
		}
		if err := validateOne(e, entries); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func validateOne(e Entry, all map[Key]Entry) error {
	switch e.Kind {
	case Defaults:
		if !httpLike(e.Protocol) {
			return fmt.Errorf("protocol %q: want http, http2 or grpc", e.Protocol)
		}
		return nil
	case Resolver:
		return validateSubsets(e.Subsets)
	case Splitter:
		return validateSplits(e.Splits, all)
	case Router:
		return validateRoutes(e.Routes, all)
	}
	return fmt.Errorf("unknown kind %q", e.Kind)
}

func validateSubsets(subsets []Subset) error {
	if len(subsets) == 0 {
		return fmt.Errorf("no subset")
	}
	seen := map[string]bool{}
	for _, s := range subsets {
		if !label.MatchString(s.Name) || seen[s.Name] {
			return fmt.Errorf("subset %.70q is not a DNS label, or is defined twice", s.Name)
		}
		seen[s.Name] = true
		if s.Filter == "" || len(s.Filter) > 4096 {
			return fmt.Errorf("subset %q has a filter of %d characters: want 1 to 4096", s.Name, len(s.Filter))
		}
	}
	for _, s := range subsets {
		for i, f := range s.Failover {
			if !seen[f] || f == s.Name || slices.Contains(s.Failover[:i], f) {
				return fmt.Errorf("subset %q fails over to %q, which is unknown, itself or named twice", s.Name, f)
			}
		}
	}
	return nil
}

func validateSplits(splits []Split, all map[Key]Entry) error {
	sum := 0
	seen := map[[2]string]bool{}
	for _, s := range splits {
		id := [2]string{s.Service, s.Subset}
		switch {
		case s.Hundredths < 0 || s.Hundredths > Whole:
			return fmt.Errorf("split to %q is %d hundredths of a percent: want 0 to %d", s.Subset, s.Hundredths, Whole)
		case seen[id]:
			return fmt.Errorf("two splits to %q", s.Subset)
		case !known(s.Service, s.Subset, all):
			return fmt.Errorf("split to subset %q of %q, which no service-resolver has", s.Subset, s.Service)
		}
		seen[id] = true
		sum += s.Hundredths
	}
	if sum != Whole {
		return fmt.Errorf("splits sum to %d hundredths of a percent: want %d", sum, Whole)
	}
	return nil
}

func validateRoutes(routes []Route, all map[Key]Entry) error {
	for i, r := range routes {
		if len(r.PathPrefix) > 1024 || r.PathPrefix != "" && !strings.HasPrefix(r.PathPrefix, "/") {
			return fmt.Errorf("route %d: path prefix %.80q: want / at the start and at most 1024 characters", i,
				r.PathPrefix)
		}
		for _, h := range r.Headers {
			if err := validateHeader(h); err != nil {
				return fmt.Errorf("route %d: %w", i, err)
			}
		}
		if !known(r.Service, r.Subset, all) {
			return fmt.Errorf("route %d goes to subset %q of %q, which no entry has", i, r.Subset, r.Service)
		}
	}
	return nil
}

func validateHeader(h HeaderMatch) error {
	if !headerName.MatchString(h.Name) {
		return fmt.Errorf("header name %.80q is not an HTTP token", h.Name)
	}
	if len(h.Exact) > 1024 || strings.ContainsAny(h.Exact, "\r\n\x00") {
		return fmt.Errorf("header %s: the value has a line break, a NUL or more than 1024 characters", h.Name)
	}
	if _, err := regexp.Compile(h.Regex); err != nil || len(h.Regex) > 1024 {
		return fmt.Errorf("header %s: the regular expression is invalid or has more than 1024 characters", h.Name)
	}
	if (h.Exact != "") && (h.Regex != "") || h.Present && (h.Exact != "" || h.Regex != "") || !h.Present &&
		h.Exact == "" && h.Regex == "" {
		return fmt.Errorf("header %s: want one of exact, regex and present", h.Name)
	}
	return nil
}

// known reports whether a service has a subset. The subset "" is the service itself, if it has
// entries.
func known(service, subset string, all map[Key]Entry) bool {
	if subset == "" {
		_, ok := all[Key{Defaults, service}]
		return ok
	}
	e, ok := all[Key{Resolver, service}]
	return ok && slices.ContainsFunc(e.Subsets, func(s Subset) bool { return s.Name == subset })
}
