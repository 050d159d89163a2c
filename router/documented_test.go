package router

import (
	"slices"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/operations.md lists the router's metrics and no others.
func TestDocumentedMetrics(t *testing.T) {
	names := reference.Metrics(newMetrics(&Router{}).registry)
	if page := reference.Documented(t, "aliquot_router_"); !slices.Equal(page, names) {
		t.Errorf("the page lists %v, the router exports %v", page, names)
	}
}
