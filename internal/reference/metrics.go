package reference

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	fullName = regexp.MustCompile(`fqName: "(aliquot_[a-z0-9_]+)"`)
	named    = regexp.MustCompile("`(aliquot_[a-z0-9_]+)`")
)

// Metrics lists the names of Aliquot's metrics in a registry, and those of further
// descriptions, sorted.
func Metrics(registry prometheus.Collector, more ...*prometheus.Desc) []string {
	out := make(chan *prometheus.Desc)
	go func() {
		defer close(out)
		registry.Describe(out)
		for _, d := range more {
			out <- d
		}
	}()
	var names []string
	for d := range out {
		if m := fullName.FindStringSubmatch(d.String()); m != nil {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Documented lists the metrics in docs/operations.md whose names begin with one of
// the prefixes, sorted.
func Documented(t testing.TB, prefixes ...string) []string {
	t.Helper()
	text, err := os.ReadFile(find(t, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(m[1], p) }) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
