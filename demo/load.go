package main

import (
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/top"
)

// amdClass is the class of the rack's one AMD GPU.
const amdClass = "mi300x"

// playLoad shows the AMD GPU as busy as its slices are: no kernel driver is there to
// count its waves. Replicas on NVIDIA's say by themselves how busy they are.
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
