package fetch

import (
	"slices"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/operations.md lists the cache's metrics and no others.
func TestDocumentedMetrics(t *testing.T) {
	names := reference.Metrics(NewMetrics().Registry)
	if page := reference.Documented(t, "aliquot_cache_"); !slices.Equal(page, names) {
		t.Errorf("the page lists %v, the cache exports %v", page, names)
	}
}
