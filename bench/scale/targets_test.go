package main

import (
	"os"
	"testing"
	"time"

	"aliquot.example/simulate"
)

// traceFolder skips the test if there are no recorded traces at all. If only one of several is
// missing, the test fails.
func traceFolder(t *testing.T) string {
	t.Helper()
	const folder = "../../../shared/data/traces"
	if _, err := os.Stat(folder); os.IsNotExist(err) {
		t.Skip("there is no folder of recorded traces: " + folder)
	}
	return folder
}

// once skips a test that only computes, in one goroutine, when the tests run again under the race
// detector.
func once(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("one goroutine computes: the race detector has nothing to find")
	}
}

// The figures in docs/scaling.md hold on both traces at a cold start of 90 s.
func TestTargetsAt90SecondsColdStart(t *testing.T) {
	once(t)
	const coldStart = 90 * time.Second
	for _, name := range traceNames {
		trace, err := readTrace(traceFolder(t), name)
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
	once(t)
	for _, name := range traceNames {
		trace, err := readTrace(traceFolder(t), name)
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

// On recorded conversations, the objective policy meets the objective at a lower cost than any
// other policy that meets it. A second hardware class makes it hardly more expensive.
func TestTargetsOfAnObjective(t *testing.T) {
	once(t)
	const coldStart = 90 * time.Second
	all, err := readServices(traceFolder(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[2:] {
		var ours outcome
		cheapest := 0.0
		for _, r := range s.rivals([]hardware{quarterH100}, coldStart) {
			switch o := s.replay(r, coldStart); {
			case r.name == "Aliquot":
				ours = o
			case o.attained >= quantile && (cheapest == 0 || o.cost < cheapest):
				cheapest = o.cost
			}
		}
		if ours.attained < quantile || cheapest > 0 && ours.cost > 0.95*cheapest {
			t.Errorf("%s: %.2f%% at a cost of %.1f, want 99%% at 0.95 of %.1f", s.name, 100*ours.attained, ours.cost, cheapest)
		}
		both := []hardware{quarterH100, wholeL4}
		two := s.replay(rival{"", both, s.ours(both, coldStart)}, coldStart)
		alone := s.replay(rival{"", both[1:], s.ours(both[1:], coldStart)}, coldStart)
		better := ours.cost
		if alone.attained >= quantile {
			better = min(better, alone.cost)
		}
		if two.attained < quantile-0.001 || two.cost > 1.02*better {
			t.Errorf("%s: two classes have %.2f%% at a cost of %.1f, the better one alone %.1f", s.name, 100*two.attained, two.cost, better)
		}
	}
}
