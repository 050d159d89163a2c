package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// A mixed fleet: replicas of h100 as in the other tables, and replicas of t4 with the same slots,
// at a fraction of the speed and cost.
const (
	fleetColdStart = 90 * time.Second
	fleetCost      = 10.0
)

// fleetSpeeds are the speeds of a slot of t4.
var fleetSpeeds = []float64{0.1, 0.25}

// fleet is one policy and the hardware that it may use.
type fleet struct {
	name    string
	classes []scale.Class // as the policy counts them
	scaler  func([]scale.Class) simulate.Scaler
}

func fleets(speed float64) []fleet {
	h100 := scale.Class{Name: "h100", Slots: slots, Cost: fleetCost, Max: maxReplicas, Speed: 1}
	bySlots := scale.Class{Name: "t4", Slots: slots, Cost: 1, Max: maxReplicas, Speed: 1}
	bySpeed := bySlots
	bySpeed.Speed = speed
	ours := func(classes []scale.Class) simulate.Scaler {
		return &simulate.PolicyScaler{Policy: scale.Default(), Classes: classes, QueryWindow: 15 * time.Minute,
			Every: time.Second}
	}
	return []fleet{
		{"KPA + 300 s down-delay, h100 alone", []scale.Class{h100}, func([]scale.Class) simulate.Scaler {
			return &kpa{target: slots * utilization, max: maxReplicas, downDelay: 300 * time.Second}
		}},
		{"Aliquot, h100 alone", []scale.Class{h100}, ours},
		{"Aliquot, both by slots (concurrency)", []scale.Class{h100, bySlots}, ours},
		{"Aliquot, both by speed (load)", []scale.Class{h100, bySpeed}, ours},
	}
}

func (f fleet) replay(trace []simulate.Request, speed float64) simulate.Summary {
	var classes []simulate.Class
	for i, class := range f.classes {
		c := simulate.Class{Name: class.Name, Slots: class.Slots, Speed: 1, Cost: class.Cost, ColdStart: fleetColdStart}
		if i == 0 {
			c.Initial = initial(trace)
		} else {
			c.Speed = speed
		}
		classes = append(classes, c)
	}
	return simulate.Summarize(simulate.Run(simulate.Config{Classes: classes}, trace, f.scaler(f.classes)), classes)
}

func fleetTable(w io.Writer, name string, trace []simulate.Request, speed float64) {
	fmt.Fprintf(w,
		"%s, cold start %s: h100 at cost %g an hour, and t4 at cost 1 with %g of its speed a slot, "+
			"%d slots each and at most %d of either\n",
		name, fleetColdStart, fleetCost, speed, slots, maxReplicas)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "policy\twait > 10 s\t> 1 s\tp99 wait s\tcost\th100 hours\tt4 hours\treversals\t")
	for _, f := range fleets(speed) {
		s := f.replay(trace, speed)
		t4 := 0.0
		if len(s.ReplicaHours) > 1 {
			t4 = s.ReplicaHours[1]
		}
		fmt.Fprintf(out, "%s\t%.2f%%\t%.1f%%\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n", f.name, 100*s.Over10, 100*s.Over1,
			s.P99.Seconds(), s.Cost, s.ReplicaHours[0], t4, s.Reversals)
	}
	out.Flush()
	fmt.Fprintln(w)
}
