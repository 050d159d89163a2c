package main

import (
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/top"
)

// amdClass is the class of the rack's only AMD GPU.
const amdClass = "mi300x"

// playLoad sets the AMD GPU's utilization to that of its slices, because there is no kernel driver
// to count waves. Replicas on NVIDIA GPUs report their utilization themselves.
func (w *watch) playLoad(services []top.Service) error {
	busy := 0.0
	for _, s := range services {
		for _, c := range s.Classes {
			if c.Name == amdClass && c.Slots > 0 {
				busy += c.Active / float64(c.Slots) * float64(c.Replicas*chatClasses[amdClass].Slices) / slicesTotal
			}
		}
	}
	percent := min(100, int(100*busy+0.5))
	if percent == w.busy {
		return nil
	}
	w.busy = percent
	return w.c.AMD.Edit(func(gpus []rack.AMDGPU) { gpus[0].Busy = percent })
}
