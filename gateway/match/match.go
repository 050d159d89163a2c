// Package match finds the service for a request, the model in its body, and the facts that its
// headers declare, such as size, cost and deadline.
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

// NewTable returns the routes of all services, the most specific first: an exact host before a
// wildcard before none, then the longer path prefix, then more headers, then a model before none,
// then the order in the file.
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

// Service returns the index of the service for a request, -1 if there is none. body returns the
// model in the request's body. It is called at most once, and only if a route depends on the model.
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

// Models returns the models that a caller can use, sorted by name: those of the routes whose hosts
// and headers match the request. The path is that of the model list, so a route matches if its
// prefix is in the same API.
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
	// If several services have a model, the first route wins, as for a request.
	slices.SortStableFunc(out, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(out, func(a, b Named) bool { return a.Name == b.Name })
}

// Named is a model of a route, and the index of its service.
type Named struct {
	Name    string
	Service int
}

// below reports whether the entry's prefix and the path are in the same API, with the same segments
// up to its version: "/v1/chat" is in the API of "/v1/models".
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

// path matches whole segments: "/v1" matches "/v1" and "/v1/x", but not "/v1x".
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

// Climbs reports whether a path has a ".." segment. Such a path could match one route here, and
// have another meaning at the replica.
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
