package plugin

import (
	"maps"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// groupsOf builds the Nomad device groups of a plan, in the plan's order. The result is never nil.
//
// taken has the instances that allocations are known to hold.
func groupsOf(vendor gpu.Vendor, plan share.Plan, states map[gpu.ID]State,
	taken map[string]bool) []*device.DeviceGroup {
	byName := map[string][]share.Offer{}
	names := []string{}
	for _, o := range plan.Offers {
		if byName[o.Group] == nil {
			names = append(names, o.Group)
		}
		byName[o.Group] = append(byName[o.Group], o)
	}
	groups := make([]*device.DeviceGroup, 0, len(names))
	for _, name := range names {
		g := &device.DeviceGroup{Vendor: string(vendor), Type: gpu.DeviceType, Name: name,
			Attributes: attributesOf(byName[name], states)}
		for _, o := range byName[name] {
			g.Devices = append(g.Devices, devicesOf(o, states[o.ID])...)
		}
		maps.Copy(g.Attributes, islands(byName[name], g.Devices, taken))
		g.Attributes["healthy"] = structs.NewIntAttribute(healthy(g.Devices), "")
		groups = append(groups, g)
	}
	return groups
}

// healthy counts the healthy instances of a group. The count is an attribute because Nomad's
// servers remember which classes of nodes cannot run a waiting job. A node's class depends on
// attributes but not on health. Without this attribute, a job that was submitted while a GPU was
// unhealthy would continue to wait after the GPU has recovered.
func healthy(devices []*device.Device) int64 {
	n := int64(0)
	for _, d := range devices {
		if d.Healthy {
			n++
		}
	}
	return n
}

// devicesOf lists the instances of one offer. A problem of a GPU makes all of its slices unhealthy.
func devicesOf(o share.Offer, s State) []*device.Device {
	var out []*device.Device
	for _, id := range o.Instances() {
		d := &device.Device{ID: id, Healthy: s.Problem == "", HealthDesc: s.Problem}
		if o.PCI != "" {
			d.HwLocality = &device.DeviceLocality{PciBusID: o.PCI}
		}
		out = append(out, d)
	}
	return out
}

// attributesOf describes a group. It leaves out attributes that differ between the group's GPUs,
// except sizes, for which it takes the smallest, because jobs compare them.
func attributesOf(offers []share.Offer, states map[gpu.ID]State) map[string]*structs.Attribute {
	attrs := describe(offers[0], states[offers[0].ID])
	for _, o := range offers[1:] {
		other := describe(o, states[o.ID])
		for key, value := range attrs {
			switch {
			case other[key] == nil:
				delete(attrs, key)
			case same(value, other[key]):
			case (key == "memory" || key == "memory_per_slice" || key == "units") && *other[key].Int < *value.Int:
				attrs[key] = other[key]
			case key != "memory" && key != "memory_per_slice" && key != "units":
				delete(attrs, key)
			}
		}
	}
	return attrs
}

func same(a, b *structs.Attribute) bool {
	n, ok := a.Compare(b)
	return ok && n == 0
}

// describe lists the attributes of one offer. Jobs use them in constraints and affinities, so the
// meaning of a name must never change.
func describe(o share.Offer, s State) map[string]*structs.Attribute {
	text, number := structs.NewStringAttribute, structs.NewIntAttribute
	attrs := map[string]*structs.Attribute{
		"model":              text(o.Model),
		"class":              text(o.Class),
		"index":              number(int64(o.Index), ""),
		"slices":             number(int64(o.Slices), ""),
		"sharing":            text(string(o.Sharing)),
		"enforcement":        text(string(o.Enforcement)),
		"enforcement_level":  text(string(o.Enforcement.Level())),
		"memory_enforcement": text(string(o.MemoryEnforcement)),
		"memory":             number(int64(o.Memory), structs.UnitMiB),
		"memory_per_slice":   number(int64(share.MemoryOf(o.Memory, 1, o.Slices)), structs.UnitMiB),
		"numa_node":          number(int64(o.NUMANode), ""),
		"weight":             structs.NewFloatAttribute(o.Weight, ""),
		"weight_source":      text(string(o.Source)),
		"unique.uuid":        text(string(o.ID)),
	}
	if o.Units > 0 {
		attrs["units"] = number(int64(o.Units), "")
	}
	for key, value := range map[string]string{
		"target": o.Target, "driver_version": o.Driver, "runtime_version": o.Runtime, "pci": o.PCI,
		"profile": o.Profile, "slices_clamped": o.Clamp,
	} {
		if value != "" {
			attrs[key] = text(value)
		}
	}
	if o.Common > 0 {
		attrs["memory_in_common"] = number(int64(o.Common), structs.UnitMiB)
	}
	if o.Parent != "" {
		attrs["unique.parent"] = text(string(o.Parent))
	}
	for key, value := range s.Attributes {
		if attrs[key] == nil { // a vendor cannot change the meaning of a common name
			attrs[key] = value
		}
	}
	return attrs
}
