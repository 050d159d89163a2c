package gateway

import (
	"slices"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/operations.md lists the gateway's metrics and no others.
func TestDocumentedMetrics(t *testing.T) {
	l := newLines(nil, nil)
	names := reference.Metrics(newMetrics().registry, append(newEngines(nil).descs(), l.queued, l.active, l.slots, l.replicas, l.rates, l.owns, l.peers)...)
	if page := reference.Documented(t, "aliquot_gateway_"); !slices.Equal(page, names) {
		t.Errorf("the page lists %v, the gateway exports %v", page, names)
	}
}
