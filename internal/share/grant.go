package share

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Granted is a request for device instances, resolved against a plan.
type Granted struct {
	// Slices are in ascending order, of one group.
	Slices []gpu.Slice
	// Offers are the offers of the slices, each once, by index: one for a shared GPU.
	Offers []Offer
	// Grant is complete except for Pipe, which only the vendor's code knows.
	Grant gpu.Grant
}

// Grant resolves the device instance IDs of one request. It fails on an unknown or repeated ID, on
// slices of more than one shared GPU, and on instances of more than one group. Its error is one
// line that says what to do.
func (p Plan) Grant(ids []string) (Granted, error) {
	if len(ids) == 0 {
		return Granted{}, fmt.Errorf("the reservation names no device instances")
	}
	var out Granted
	for _, id := range ids {
		slice, offer, err := p.resolve(id)
		if err != nil {
			return Granted{}, err
		}
		if slices.Contains(out.Slices, slice) {
			return Granted{}, fmt.Errorf("the reservation names device instance %q twice", id)
		}
		out.Slices = append(out.Slices, slice)
		if !slices.ContainsFunc(out.Offers, func(o Offer) bool { return o.ID == offer.ID }) {
			out.Offers = append(out.Offers, offer)
		}
	}
	first := out.Offers[0]
	for _, o := range out.Offers[1:] {
		if o.Group != first.Group {
			return Granted{}, fmt.Errorf("the reservation names device instances of two groups (%s and %s)",
				first.Group, o.Group)
		}
	}
	slices.SortFunc(out.Slices, func(a, b gpu.Slice) int { return strings.Compare(a.String(), b.String()) })
	slices.SortStableFunc(out.Offers, func(a, b Offer) int { return a.Index - b.Index })
	out.Grant = grantOf(out.Slices, out.Offers)
	return out, nil
}

func (p Plan) resolve(id string) (gpu.Slice, Offer, error) {
	slice, err := gpu.ParseSlice(id)
	if err != nil {
		return gpu.Slice{}, Offer{}, err
	}
	offer, ok := p.Offer(slice.GPU)
	if !ok {
		return gpu.Slice{}, Offer{},
			fmt.Errorf("device instance %q: GPU %s is not offered on this host now; "+
				"the job is placed again once Nomad sees the node's present devices", id, slice.GPU)
	}
	if slice.Of != offer.Slices {
		return gpu.Slice{}, Offer{},
			fmt.Errorf("device instance %q is of %d slices, but GPU %s is offered in %d now; "+
				"the job is placed again once Nomad sees the node's present devices", id, slice.Of, slice.GPU,
				offer.Slices)
	}
	return slice, offer, nil
}

func grantOf(held []gpu.Slice, offers []Offer) gpu.Grant {
	first := offers[0]
	g := gpu.Grant{
		Vendor: first.Vendor, Group: first.Group, Class: first.Class, Model: first.Model,
		Slices: len(held), Total: first.Slices,
		Sharing: first.Sharing, Enforcement: first.Enforcement, MemoryEnforcement: first.MemoryEnforcement,
		Target: first.Target, Driver: first.Driver, Runtime: first.Runtime,
	}
	for _, s := range held {
		g.Instances = append(g.Instances, s.String())
	}
	for _, o := range offers {
		k := 0
		for _, s := range held {
			if s.GPU == o.ID {
				k++
			}
		}
		g.GPUs = append(g.GPUs, o.ID)
		g.PCI = append(g.PCI, o.PCI)
		if o.MIG != "" {
			g.MIG = append(g.MIG, o.MIG)
		}
		g.Memory += MemoryOf(o.Memory, k, o.Slices)
		g.Units += UnitsOf(o.Units, k, o.Slices)
		g.Weight += o.Weight * float64(k) / float64(o.Slices)
	}
	return g
}
