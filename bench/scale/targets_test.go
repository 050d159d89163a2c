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

// once skips a test that only computes, for minutes under the race detector, when the tests run again
// under it. TestReplaysRunBesideEachOther covers what is concurrent.
func once(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("computes for minutes under the race detector")
	}
}

// Replays of one trace run at the same time and share nothing that they change.
func TestReplaysRunBesideEachOther(t *testing.T) {
	s := service{name: "short", objective: simulate.Objective{TTFT: 3 * time.Second, TPOT: 100 * time.Millisecond}}
	for i := range 200 {
		s.trace = append(s.trace, simulate.Request{At: time.Duration(i) * 100 * time.Millisecond, InputTokens: 900, OutputTokens: 50})
	}
	all := s.rivals([]hardware{quarterH100, wholeL4}, 30*time.Second)
	outcomes := s.replays(all, 30*time.Second)
	for i, r := range all {
		if again := s.replay(r, 30*time.Second); again.attained != outcomes[i].attained || again.cost != outcomes[i].cost {
			t.Errorf("%s: %+v beside others, %+v alone", r.name, outcomes[i], again)
		}
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

// On recorded conversations, the objective policy meets the objective at nine tenths of the cost of any
// other policy that meets it behind a proxy, and at about the least cost behind the same gateway. A
// second hardware class makes it hardly more expensive.
func TestTargetsOfAnObjective(t *testing.T) {
	once(t)
	const coldStart = 90 * time.Second
	all, err := readServices(traceFolder(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[2:] {
		rivals := s.rivals([]hardware{quarterH100}, coldStart)
		outcomes := s.replays(rivals, coldStart)
		ours := outcomes[len(outcomes)-1]
		if ours.attained < quantile {
			t.Errorf("%s: %.2f%% within the objective, want 99%%", s.name, 100*ours.attained)
		}
		for i, o := range outcomes[:len(outcomes)-1] {
			most := 1.05
			if rivals[i].proxied {
				most = 0.9
			}
			if o.attained >= quantile && ours.cost > most*o.cost {
				t.Errorf("%s: a cost of %.1f, want %g of the %.1f of %s", s.name, ours.cost, most, o.cost, rivals[i].name)
			}
		}
		both := []hardware{quarterH100, wholeL4}
		two := s.replay(rival{on: both, scaler: s.ours(both, coldStart)}, coldStart)
		alone := s.replay(rival{on: both[1:], scaler: s.ours(both[1:], coldStart)}, coldStart)
		better := ours.cost
		if alone.attained >= quantile {
			better = min(better, alone.cost)
		}
		if two.attained < quantile-0.001 || two.cost > 1.02*better {
			t.Errorf("%s: two classes have %.2f%% at a cost of %.1f, the better one alone %.1f", s.name, 100*two.attained, two.cost, better)
		}
	}
}
