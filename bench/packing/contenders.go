package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"aliquot.example/internal/pack"
)

// contender is a policy that places tasks.
type contender struct {
	name string
	make func(machines []machine, n int, seed uint64, demand pack.Demand) (placer, error)
}

// contenders returns the policies that the flags name.
func (o options) contenders() []contender {
	var out []contender
	for _, name := range strings.Split(o.policies, ",") {
		if pack.Policy(name) == pack.Fragmentation {
			for _, text := range strings.Split(o.lags, ",") {
				lag := 0
				_, _ = fmt.Sscan(text, &lag)
				out = append(out, nomad(name, lag))
			}
			continue
		}
		if sim := simulated(name); sim.make != nil {
			out = append(out, sim)
		} else {
			out = append(out, nomad(name, 0))
		}
	}
	return out
}

// nomad returns Nomad's scheduler, with jobs that carry what the policy adds.
func nomad(policy string, lag int) contender {
	name := "nomad, " + policy
	if lag > 0 {
		name = fmt.Sprintf("%s, lag %d", name, lag)
	}
	return contender{name, func(machines []machine, n int, _ uint64, demand pack.Demand) (placer, error) {
		p, err := pack.ParsePolicy(policy)
		if err != nil {
			return nil, err
		}
		return newCluster(machines, n, p, demand, lag)
	}}
}

// simulated returns a simulated policy by its name: one that knows the whole cluster, or
// "levels", a model of Nomad's scheduler.
func simulated(name string) contender {
	knows := func(rank func(machines []machine, seed uint64, demand pack.Demand) func(pack.Node,
		pack.Ask) choice) contender {
		return contender{name + " (simulated)", func(machines []machine, n int, seed uint64,
			demand pack.Demand) (placer, error) {
			return newKnowing(machines, n, seed, rank(machines, seed, demand)), nil
		}}
	}
	switch name {
	case "random":
		return knows(func(_ []machine, seed uint64, _ pack.Demand) func(pack.Node, pack.Ask) choice {
			return atRandom(rand.New(rand.NewPCG(seed, 1)))
		})
	case "bestfit":
		return knows(func(machines []machine, _ uint64, _ pack.Demand) func(pack.Node, pack.Ask) choice {
			return bestFit(machines)
		})
	case "levels":
		return contender{"levels (simulated)", func(machines []machine, n int, seed uint64,
			d pack.Demand) (placer, error) {
			return newLeveled(machines, n, seed, d), nil
		}}
	case "fgd":
		return knows(func(_ []machine, _ uint64, demand pack.Demand) func(pack.Node, pack.Ask) choice {
			return fgd(demand)
		})
	}
	return contender{}
}
