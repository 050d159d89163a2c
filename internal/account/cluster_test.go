package account

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// A node leaves while the autoscaler drains it and for as long as its end may take. One that an
// autoscaler left behind drained counts as any other that is closed.
func TestANodeThatAnAutoscalerLeftBehind(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	drained := func(by string, status api.DrainStatus, ago time.Duration) *api.DrainMetadata {
		return &api.DrainMetadata{UpdatedAt: now.Add(-ago), Status: status, Meta: map[string]string{"drained_by": by}}
	}
	for name, c := range map[string]struct {
		drain *api.DrainMetadata
		want  bool
	}{
		"never drained":           {nil, false},
		"drained by hand":         {drained("", api.DrainStatusComplete, time.Minute), false},
		"is being drained":        {drained("nomad-autoscaler", api.DrainStatusDraining, 3*time.Hour), true},
		"is about to be ended":    {drained("nomad-autoscaler", api.DrainStatusComplete, time.Minute), true},
		"was left behind":         {drained("nomad-autoscaler", api.DrainStatusComplete, time.Hour), false},
		"by a clock that is slow": {drained("nomad-autoscaler", api.DrainStatusComplete, -time.Minute), true},
	} {
		if got := leaves(c.drain, now); got != c.want {
			t.Errorf("%s: leaves %v, want %v", name, got, c.want)
		}
	}
}
