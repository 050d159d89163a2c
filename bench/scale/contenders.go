package main

import (
	"math"
	"time"

	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// The hardware of every replay. utilization is that of the baselines, KPA's default.
const (
	slots       = 2
	maxReplicas = 24
	utilization = 0.7
)

// contender is one policy to compare. scaler returns a new scaler for each replay.
type contender struct {
	name        string
	deployments bool
	scaler      func() simulate.Scaler
}

func contenders(coldStart time.Duration) []contender {
	const target = slots * utilization
	return []contender{
		{"Nomad target-value default", false, func() simulate.Scaler {
			return &nomadTarget{target: target, max: maxReplicas, cooldown: 5 * time.Minute}
		}},
		{"Ray Serve default", false, func() simulate.Scaler { return &rayServe{max: maxReplicas} }},
		{"KPA default", false, func() simulate.Scaler { return &kpa{target: target, max: maxReplicas} }},
		{"KPA default, Nomad deployments", true,
			func() simulate.Scaler { return &kpa{target: target, max: maxReplicas} }},
		{"KPA + 300 s down-delay", false, func() simulate.Scaler {
			return &kpa{target: target, max: maxReplicas, downDelay: 300 * time.Second}
		}},
		{"Aliquot", false, aliquot(coldStart)},
		{"Aliquot, Nomad deployments", true, aliquot(coldStart)},
	}
}

// aliquot returns the default policy with the given cold start, at an interval of 1 s and with a
// query window of 15 minutes.
func aliquot(coldStart time.Duration) func() simulate.Scaler {
	policy := scale.Default()
	policy.ColdStart = coldStart
	return func() simulate.Scaler {
		return &simulate.PolicyScaler{
			Policy: policy, Classes: []scale.Class{{Name: "gpu", Slots: slots, Cost: 1, Max: maxReplicas}},
			Min: []int{1}, QueryWindow: 15 * time.Minute, Every: time.Second,
		}
	}
}

func (c contender) replay(trace []simulate.Request, coldStart time.Duration) simulate.Summary {
	classes := []simulate.Class{{Name: "gpu", Slots: slots, Speed: 1, Cost: 1, ColdStart: coldStart,
		Initial: initial(trace)}}
	config := simulate.Config{Classes: classes, Deployments: c.deployments, MinHealthy: 10 * time.Second}
	return simulate.Summarize(simulate.Run(config, trace, c.scaler()), classes)
}

// initial returns the replicas for the trace's mean demand. The traces are cut out of running
// services, so no policy starts from zero.
func initial(trace []simulate.Request) int {
	var work time.Duration
	for _, q := range trace {
		work += q.Service
	}
	mean := work.Seconds() / trace[len(trace)-1].At.Seconds()
	return max(1, int(math.Ceil(mean/(slots*utilization))))
}
