// Package match finds the service that a request is meant for and what the
// request says of itself: its size, its deadline, its tenant.
package match

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"aliquot.example/gateway/config"
)

// Table finds services by the routes of a configuration.
type Table struct {
	entries []entry
	models  bool
}

type entry struct {
	service int
	hosts   []string
	prefix  string
	headers map[string]string
	models  []string
}

// NewTable orders the routes of all services by how much they say: an exact host
// before a wildcard before none, then the longer path prefix, then more headers,
// then a model before none, then the order of the file.
func NewTable(services []config.Service) *Table {
	t := &Table{}
	for i, s := range services {
		for _, r := range s.Routes {
			headers := map[string]string{}
			for k, v := range r.Headers {
				headers[http.CanonicalHeaderKey(k)] = v
			}
			prefix := strings.TrimSuffix(r.PathPrefix, "/")
			t.entries = append(t.entries, entry{i, r.Hosts, prefix, headers, r.Models})
			t.models = t.models || len(r.Models) > 0
		}
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int {
		x, y := a.rank(), b.rank()
		return -slices.Compare(x[:], y[:])
	})
	return t
}

func (e *entry) rank() [4]int {
	host := 0
	for _, h := range e.hosts {
		if strings.HasPrefix(h, "*.") {
			host = max(host, 1)
		} else {
			host = 2
		}
	}
	return [4]int{host, len(e.prefix), len(e.headers), min(1, len(e.models))}
}

// Service returns the index of the service that a request is meant for, -1 when
// there is none. body is asked for the model that the request's body names; only
// when a route depends on it, and at most once.
func (t *Table) Service(r *http.Request, body func() string) int {
	host := ""
	var model string
	asked := false
	for i := range t.entries {
		e := &t.entries[i]
		if len(e.hosts) > 0 {
			if host == "" {
				host = hostname(r.Host)
			}
			if !e.host(host) {
				continue
			}
		}
		if !e.path(r.URL.Path) || !e.header(r.Header) {
			continue
		}
		if len(e.models) > 0 {
			if !asked {
				model, asked = body(), true
			}
			if !slices.Contains(e.models, model) {
				continue
			}
		}
		return e.service
	}
	return -1
}

// Models returns the models that a caller may name, by the routes that hold for
// everything else of the request, sorted. The method and the last part of the path are
// of the question and not of a use: a route's prefix holds if it holds for the path
// before it.
func (t *Table) Models(r *http.Request) []Named {
	host, path := hostname(r.Host), r.URL.Path
	var out []Named
	for i := range t.entries {
		e := &t.entries[i]
		if len(e.models) == 0 || (len(e.hosts) > 0 && !e.host(host)) || !e.header(r.Header) {
			continue
		}
		if e.path(path) || e.below(path) {
			for _, name := range e.models {
				out = append(out, Named{name, e.service})
			}
		}
	}
	// Of several services the first route decides, as it does for a request.
	slices.SortStableFunc(out, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(out, func(a, b Named) bool { return a.Name == b.Name })
}

// Named is a model that a route names, and the index of its service.
type Named struct {
	Name    string
	Service int
}

// below reports whether the entry's prefix and the path share all segments up to the
// API's version: "/v1/chat" is of the API that "/v1/models" asks about.
func (e *entry) below(path string) bool {
	api, _, ok := strings.Cut(path, "/v1/")
	return ok && strings.HasPrefix(e.prefix, api+"/v1/")
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func (e *entry) host(host string) bool {
	for _, h := range e.hosts {
		if h == host {
			return true
		}
		if rest, ok := strings.CutPrefix(h, "*"); ok && len(host) > len(rest) && strings.HasSuffix(host, rest) {
			return true
		}
	}
	return false
}

// path matches whole segments: "/v1" holds for "/v1" and "/v1/x", not "/v1x".
func (e *entry) path(path string) bool {
	rest, ok := strings.CutPrefix(path, e.prefix)
	return ok && (e.prefix == "" || rest == "" || rest[0] == '/')
}

func (e *entry) header(h http.Header) bool {
	for k, want := range e.headers {
		got, ok := h[k]
		if !ok || (want != "*" && !slices.Contains(got, want)) {
			return false
		}
	}
	return true
}

// Climbs tells whether a path has a ".." segment. Such a path could match one
// route here and mean another at the replica.
func Climbs(path string) bool {
	if !strings.Contains(path, "..") {
		return false
	}
	for segment := range strings.SplitSeq(strings.ReplaceAll(path, "\\", "/"), "/") {
		if segment == ".." {
			return true
		}
	}
	return false
}
