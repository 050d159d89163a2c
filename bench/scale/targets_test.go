package main

import (
	"os"
	"testing"
	"time"

	"aliquot/simulate"
)

// The promise of docs/scaling.md, on both traces at a cold start of 90 s.
func TestTargetsAt90SecondsColdStart(t *testing.T) {
	const coldStart = 90 * time.Second
	for _, name := range traceNames {
		trace, err := readTrace("../../../shared/data/traces", name)
		if os.IsNotExist(err) {
			t.Skip("the traces are not here: ../shared/data/traces")
		}
		if err != nil {
			t.Fatal(err)
		}
		results := map[string]simulate.Summary{}
		for _, c := range contenders(coldStart) {
			results[c.name] = c.replay(trace, coldStart)
		}
		ours, kpa, delayed := results["Aliquot"], results["KPA default"], results["KPA + 300 s down-delay"]
		if ours.Over10 > 0.005 {
			t.Errorf("%s: %.2f%% waited over 10 s, want at most 0.5%%", name, 100*ours.Over10)
		}
		if ours.TotalHours() > delayed.TotalHours() {
			t.Errorf("%s: %.2f replica-hours, KPA with 300 s down-delay has %.2f", name, ours.TotalHours(), delayed.TotalHours())
		}
		if ours.Over10 >= kpa.Over10 || ours.P99 >= kpa.P99 {
			t.Errorf("%s: waits %.2f%% and %s are not less than KPA's %.2f%% and %s", name, 100*ours.Over10, ours.P99, 100*kpa.Over10, kpa.P99)
		}
		if ours.TotalHours() > 1.1*kpa.TotalHours() {
			t.Errorf("%s: %.2f replica-hours, more than 1.1 x KPA's %.2f", name, ours.TotalHours(), kpa.TotalHours())
		}
	}
}

// On a mixed fleet, counting by speed is better in every respect than counting slots.
func TestTargetsOfAMixedFleet(t *testing.T) {
	for _, name := range traceNames {
		trace, err := readTrace("../../../shared/data/traces", name)
		if os.IsNotExist(err) {
			t.Skip("the traces are not here: ../shared/data/traces")
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, speed := range fleetSpeeds {
			all := fleets(speed)
			bySlots, bySpeed := all[2].replay(trace, speed), all[3].replay(trace, speed)
			if bySpeed.Over10 > 0.006 {
				t.Errorf("%s, t4 at %g: %.2f%% waited over 10 s, want at most 0.6%%", name, speed, 100*bySpeed.Over10)
			}
			if bySpeed.Over10 >= bySlots.Over10 || bySpeed.P99 >= bySlots.P99 || bySpeed.Cost >= bySlots.Cost {
				t.Errorf("%s, t4 at %g: by speed %.2f%%, %s, cost %.1f; by slots %.2f%%, %s, cost %.1f", name, speed,
					100*bySpeed.Over10, bySpeed.P99, bySpeed.Cost, 100*bySlots.Over10, bySlots.P99, bySlots.Cost)
			}
		}
	}
}
