package view

import (
	"fmt"
	"testing"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
)

// Who failed stands first, then who is on its way; a holder without a report is shown, and
// classes that nobody names count for "*".
func TestRolloutOf(t *testing.T) {
	if got := RolloutOf(Drivers{Wanted: driver.Wanted{Max: 1}}); got != nil {
		t.Errorf("%+v", got)
	}
	node := func(name, class, loaded string, phase driver.Phase) driver.NodeReport {
		return driver.NodeReport{
			Node: name, ID: name, Class: class, Phase: phase, Drivers: map[gpu.Vendor]driver.Installed{gpu.NVIDIA: {Loaded: loaded}},
		}
	}
	d := Drivers{
		Wanted: driver.Wanted{Max: 3, Classes: map[string]driver.Want{"h100": {Version: "2"}, "*": {Version: "3"}}},
		Slots:  driver.Slots{Holders: map[string]driver.Holder{"c": {Node: "c"}, "gone": {Node: "gone"}, "d": {Node: "d", Failed: "why"}}},
		Nodes: []driver.NodeReport{
			node("a", "h100", "2", driver.Current), node("b", "h100", "1", driver.Changing), node("c", "t4", "1", driver.Draining),
			node("d", "", "1", driver.Failed), node("e", "t4", "3", driver.Current),
		},
	}
	got := RolloutOf(d)
	order := ""
	for _, n := range got.Nodes {
		order += n.Node + " "
	}
	if order != "d c gone b a e " || got.Nodes[2].Why != "no report" || !got.Nodes[2].Slot || !got.Stopped || !got.Open || got.Taken != 3 {
		t.Errorf("%s: %+v", order, got)
	}
	if text := fmt.Sprint(got.Classes); text != "[{* 3  [] 3 1} {h100 2  [] 2 1}]" {
		t.Error(text)
	}
	d.Slots, d.Nodes = driver.Slots{}, d.Nodes[:1]
	if got := RolloutOf(d); got.Open || got.State != "runs" {
		t.Errorf("a rollout that is over is open: %+v", got)
	}
}
