package gateway

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

type startStore map[string]map[string]api.ColdStart

func (s startStore) Starts(_ context.Context, service string) (map[string]api.ColdStart, error) {
	return s[service], nil
}

// What the autoscaler learned of starts and what the gateway saw of first answers are in
// one place, for the metrics and for the admin API.
func TestStartsAreExported(t *testing.T) {
	s := &Server{log: slog.New(slog.DiscardHandler), metrics: newMetrics()}
	s.plan.Store(&plan{services: []*service{{name: "chat"}}})
	known := map[string]api.ColdStart{"h100": {Count: 5, P95: 57, Parts: map[string]float64{"image": 20, "load": 30}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.keepStarts(ctx, startStore{"chat": known}) // ends at once
	if s.metrics.starts.of("chat") != nil {
		t.Fatal("something is known before it was read")
	}
	s.metrics.starts.keep(map[string]map[string]api.ColdStart{"chat": known}, map[string]bool{"chat": true})
	chat := &classMetrics{service: s.metrics.service.WithLabelValues("chat", "h100"), class: "h100", means: &means{}, name: "chat", starts: s.metrics.starts}
	for _, seconds := range []float64{2, 0.1, 0.1} { // the first alone is the first
		chat.took(time.Duration(seconds*float64(time.Second)), 0)
	}
	want := map[string]api.ColdStart{"h100": {Count: 5, P95: 57, Parts: map[string]float64{"image": 20, "load": 30, "answer": 2}}}
	if got := s.metrics.starts.of("chat"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(known["h100"].Parts) != 2 {
		t.Error("what was read is changed")
	}
	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if name := strings.TrimPrefix(f.GetName(), "aliquot_gateway_cold_start_"); name != f.GetName() {
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				exported[name] = m.GetGauge().GetValue()
			}
		}
	}
	figures := map[string]float64{"seconds h100 chat": 57, "part_seconds h100 image chat": 20, "part_seconds h100 load chat": 30, "part_seconds h100 answer chat": 2}
	if !reflect.DeepEqual(exported, figures) {
		t.Errorf("exported are %v, want %v", exported, figures)
	}
	s.metrics.starts.keep(nil, nil)
	if s.metrics.starts.of("chat") != nil {
		t.Error("a service that is gone is still known")
	}
}
