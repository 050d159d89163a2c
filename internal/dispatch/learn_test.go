package dispatch

import (
	"math"
	"testing"
)

func TestRatesOfAClassOutliveItsReplicas(t *testing.T) {
	q := New(Policy{})
	q.Put(Replica{ID: "slow", Class: "t4", Slots: 2, Weight: 1})
	q.Put(Replica{ID: "fast", Class: "h100", Slots: 1, Weight: 4})
	teach(q, map[string]float64{"slow": 2, "fast": 0.25}, 50)
	check := func(what string) {
		t.Helper()
		for class, want := range map[string]Rate{"t4": {Rate: 0.5, Slots: 2}, "h100": {Rate: 4, Slots: 1}} {
			got := q.Rates()[class]
			if math.Abs(got.Rate/want.Rate-1) > 0.01 || got.Slots != want.Slots || got.Samples == 0 {
				t.Errorf("%s: %s has %+v, want about %+v", what, class, got, want)
			}
		}
	}
	check("learned")
	// What a replica of a class does is published as rate x slots: it must not become
	// 0 while the class is scaled to none.
	q.Drop("slow")
	q.Drop("fast")
	check("without a replica")
}
