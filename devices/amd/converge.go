package amd

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	kernel "aliquot.example/internal/host/amd"
	"aliquot.example/internal/share"
)

// Converge repartitions idle cards as configured and checks every card's health. A card's health is
// that of all its slices and partitions.
func (v *vendor) Converge(_ context.Context, plan share.Plan) map[gpu.ID]plugin.State {
	v.mu.Lock()
	cards := v.cards
	v.mu.Unlock()
	states, unhealthy := map[gpu.ID]plugin.State{}, map[gpu.ID]string{}
	for _, c := range cards {
		h := v.health(c)
		h.Silent = v.unresponsive(c)
		problem, starting := h.problem(v.maxUncorrectable), false
		v.logged.warn("health "+string(c.ID), "a GPU is unhealthy", logText(c, problem))
		if problem == "" {
			problem, starting = v.split.converge(c, wanted(v.cfg.Rules, share.Found{GPU: v.describe(c)}))
		}
		if !starting {
			unhealthy[c.ID] = problem
		}
		for _, offer := range plan.Offers {
			if offer.ID == c.ID || offer.Parent == c.ID {
				why := cmp.Or(problem, v.hidden(c, offer.ID))
				states[offer.ID] = plugin.State{Problem: why, Starting: starting && why == problem,
					Attributes: v.attributes(offer)}
			}
		}
	}
	v.mu.Lock()
	v.unhealthy = unhealthy
	v.mu.Unlock()
	return states
}

// hidden returns why a task could not open a card or partition, or "" if it could. A task without the
// render node would start and find no GPU.
func (v *vendor) hidden(c card, id gpu.ID) string {
	why := ""
	if _, err := v.render(c, id); err != nil {
		why = fmt.Sprintf("it has no render node, so no task can open it (%v); "+
			"check the kernel's log and reload amdgpu",
			err)
	}
	v.logged.warn("render node "+string(id), "a GPU is unhealthy", logText(c, why))
	return why
}

// render returns the minor number of the render node of a card or partition.
func (m machine) render(c card, id gpu.ID) (int, error) {
	nodes := make([]kernel.Node, len(c.Nodes))
	for i, n := range c.Nodes {
		nodes[i] = n.Node
	}
	return kernel.RenderMinor(m.Root, nodes, id, c.PCI.String())
}

func logText(c card, problem string) string {
	if problem == "" {
		return ""
	}
	return fmt.Sprintf("GPU %s: %s", c.ID, problem)
}

// attributes returns AMD's additions to a group's attributes.
func (v *vendor) attributes(offer share.Offer) map[string]*structs.Attribute {
	c, n, ok := v.known(offer.ID)
	if !ok {
		return nil
	}
	out := map[string]*structs.Attribute{"library": structs.NewStringAttribute("none")}
	if s := v.lib.use(); s != nil {
		out["library"] = structs.NewStringAttribute("amdsmi " + s.Version.String())
	}
	if c.Compute != "" {
		out["compute_partition"] = structs.NewStringAttribute(c.Compute)
	}
	if c.Memory != "" {
		out["memory_partition"] = structs.NewStringAttribute(c.Memory)
	}
	if offer.Sharing == gpu.SharingCUMask {
		per := n.Shape.PerSlice(offer.Slices)
		out["units_per_slice"] = structs.NewIntAttribute(int64(per), "")
		v.idle(offer, n.Shape, per)
	}
	return out
}

// idle logs once how many compute units are in no slice with this number of slices, and the nearest
// numbers of slices that use all compute units.
func (v *vendor) idle(offer share.Offer, shape share.CUShape, per int) {
	left := shape.Units - per*offer.Slices
	text := ""
	if left > 0 {
		text = fmt.Sprintf("GPU %s: %d slices of %d compute units leave %d of %d unused; %s slices would use all",
			offer.ID, offer.Slices, per, left, shape.Units, exact(shape, offer.Slices))
	}
	v.logged.info("idle "+string(offer.ID), "some compute units are in no slice", text)
}

// exact lists the numbers of slices closest to n that use every compute unit.
func exact(shape share.CUShape, n int) string {
	var near []string
	for i := n; i >= 1; i-- {
		if shape.PerSlice(i)*i == shape.Units {
			near = append(near, fmt.Sprint(i))
			break
		}
	}
	for i := n + 1; i <= shape.MaxSlices(); i++ {
		if shape.PerSlice(i)*i == shape.Units {
			near = append(near, fmt.Sprint(i))
			break
		}
	}
	return strings.Join(near, " or ")
}
