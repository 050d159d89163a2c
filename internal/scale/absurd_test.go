package scale

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Whatever figures gateways and Consul report, every count is possible. A demand beyond all devices
// means all devices, not none.
func TestAbsurdFiguresMakeNoAbsurdCount(t *testing.T) {
	figure := func(t *rapid.T, name string) float64 {
		return rapid.SampledFrom([]float64{0, 1e-9, 1, 1e9, 1e15}).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := promised()
		for i := range c.Classes {
			c.Classes[i].Serving = &Serving{
				Concurrency: figure(t, "most"), Rate: rapid.SampledFrom([]float64{1e-60, 1e-9, 1, 1e9}).Draw(t, "rate"),
				First: figure(t, "first"), Token: figure(t, "token"), Slack: figure(t, "slack"),
			}
			c.Classes[i].Max = rapid.SampledFrom([]int{0, 1, 8}).Draw(t, "max")
		}
		arrived := make([]float64, rapid.SampledFrom([]int{1, 50, 1200}).Draw(t, "seconds"))
		for i := range arrived {
			if i < 50 {
				arrived[i] = figure(t, "arrived")
			} else {
				arrived[i] = arrived[i%50]
			}
		}
		e := came(arrived)
		e.Traffic.Waiting = figure(t, "waiting")
		e.Traffic.Missed = flat(figure(t, "missed"), len(arrived))
		e.Current = rapid.IntRange(0, 8).Draw(t, "current")
		d := c.Decide(e)
		if d.Count < 0 || d.Count > 8 || d.Awake < 0 || math.IsNaN(d.Need.Demand) {
			t.Fatalf("count %d, %d awake, for %v", d.Count, d.Awake, d.Need.Demand)
		}
		for i, n := range d.Plan {
			if n < 0 || n > c.Classes[i].Max {
				t.Fatalf("%d replicas of %s, of %d: %s", n, c.Classes[i].Name, c.Classes[i].Max, d.Reason)
			}
		}
	})
	// An overflow must not become a small number.
	c := promised()
	c.Classes[0].Serving.Rate, c.Classes[1].Serving.Rate = 1e-9, 1e-9
	if d := c.Decide(came(flat(1e15, 1200))); d.Plan[0] != 8 || d.Plan[1] != 8 {
		t.Errorf("the plan is %v: %s", d.Plan, d.Reason)
	}
	if n := SlotsFor(math.Inf(1), 0.9); n < MaxSlots {
		t.Errorf("%d slots for an endless demand", n)
	}
}
