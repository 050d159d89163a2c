package main

import (
	"fmt"
	"time"

	"aliquot.example/e2e/modelserver/engine"
	"aliquot.example/internal/gpu"
)

// part is some replicas of one class.
type part struct {
	class string
	count int
}

type fleet struct {
	name  string
	parts []part
	seqs  int // the most sequences in one step of a replica, 0 for vLLM's default
}

var fleets = []fleet{
	{name: "mixed", parts: []part{{"h100", 2}, {"a100", 4}, {"l4", 4}}},
	{name: "slices", parts: []part{{"mi300x", 2}, {"half-h100", 2}, {"l4", 6}}},
	{name: "equal", parts: []part{{"a100", 8}}},
	{name: "big64", parts: []part{{"h100", 12}, {"a100", 24}, {"mi300x", 4}, {"l4", 24}}},
	{name: "one", parts: []part{{"h100", 1}, {"l4", 8}}},
	{name: "four", parts: []part{{"h100", 1}, {"a100", 2}, {"l4", 1}}},
}

func fleetOf(name string) (fleet, error) {
	for _, f := range fleets {
		if f.name == name {
			return f, nil
		}
	}
	return fleet{}, fmt.Errorf("unknown fleet %q: want mixed, slices, equal, big64, one or four", name)
}

// replicas starts the engines of a fleet.
func (f fleet) replicas() []*replica {
	var out []*replica
	for _, p := range f.parts {
		h, ok := engine.Class(p.class)
		if !ok {
			panic("no class " + p.class)
		}
		for range p.count {
			out = append(out, &replica{
				hardware: h, weight: weight(p.class), ends: never,
				engine: engine.New(engine.Config{Hardware: h, Page: page, MaxSeqs: f.seqs}),
			})
		}
	}
	return out
}

func (f fleet) size() (n int) {
	for _, p := range f.parts {
		n += p.count
	}
	return n
}

// named is a class as the product knows it: its name in the hardware table, and the
// part of the GPU.
func named(class string) (name string, part float64) {
	switch class {
	case "a100":
		return "a100-80gb", 1
	case "half-h100":
		return "h100", 0.5
	}
	return class, 1
}

// weight is a class's in the product's hardware table, which every contestant that
// takes weights gets.
func weight(class string) float64 {
	name, part := named(class)
	for _, h := range gpu.Table() {
		if h.Class == name {
			return part * h.Weight
		}
	}
	panic("no weight of " + class)
}

// capacity is the rate that counts as load 1: what the fleet serves when every
// replica is always busy and has only its own prefix cache. Each class gets a sample
// as thin as its replica's part of the traffic would be.
func capacity(f fleet, all []traced) float64 {
	total := 0.0
	rates := map[string]float64{}
	for _, p := range f.parts {
		if _, ok := rates[p.class]; !ok {
			rates[p.class] = saturated(p.class, sample(all, f.size()))
		}
		total += float64(p.count) * rates[p.class]
	}
	return total
}

// sample takes every n-th request, enough for a steady state.
func sample(all []traced, n int) []traced {
	const most = 1200
	var out []traced
	for i := 0; len(out) < most && i < n; i++ {
		for j := i; j < len(all) && len(out) < most; j += n {
			out = append(out, all[j])
		}
	}
	return out
}

// saturated is the requests per second of one replica that always has work waiting,
// from when a tenth has ended until no more waits.
func saturated(class string, all []traced) float64 {
	h, _ := engine.Class(class)
	e := engine.New(engine.Config{Hardware: h, Page: page})
	var now, begin time.Duration
	warm, ended := len(all)/10, 0
	for _, t := range all {
		for e.Waiting() >= 4 {
			took, _ := e.Begin()
			now += took
			for _, s := range e.End() {
				if s.Made() < s.Output {
					continue
				}
				if ended++; ended == warm {
					begin = now
				}
			}
		}
		_ = e.Add(&engine.Sequence{Prompt: t.prompt, Output: t.output, Prefix: t.prefix})
	}
	return float64(ended-warm) / (now - begin).Seconds()
}
