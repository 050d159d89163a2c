package discovery

import (
	"log/slog"
	"testing"
)

// A replica without a weight counts by the table and its part of the GPU.
func TestTheFallbackOfAWeightKnowsTheTotal(t *testing.T) {
	for name, c := range map[string]struct {
		meta map[string]string
		want float64
	}{
		"6 of 20":        {map[string]string{"gpu_class": "h100", "aliquot_slices": "6", "aliquot_slices_total": "20"}, 0.3},
		"weight unknown": {map[string]string{"gpu_class": "h100", "aliquot_slices": "6", "aliquot_slices_total": "20", "aliquot_weight": "0.0000"}, 0.3},
		"two whole":      {map[string]string{"gpu_class": "h100", "aliquot_slices": "2", "aliquot_slices_total": "1"}, 2},
		"no table":       {map[string]string{"gpu_class": "newgpu", "aliquot_slices": "6", "aliquot_slices_total": "20"}, 0.3},
		"claimed":        {map[string]string{"gpu_class": "h100", "aliquot_slices": "6", "aliquot_weight": "0.42"}, 0.42},
	} {
		d := described("10.0.0.1:80", func(key string) string { return c.meta[key] }, &onceLog{log: slog.New(slog.DiscardHandler)})
		if got := replica("id", d).Weight; got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%s: weight %v, want %v", name, got, c.want)
		}
	}
}
