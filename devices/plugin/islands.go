package plugin

import (
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/share"
)

// islands returns the attributes with which a job requests GPUs of a group that are close together.
func islands(offers []share.Offer, devices []*device.Device, taken map[string]bool) map[string]*structs.Attribute {
	healthy := map[string]bool{}
	for _, d := range devices {
		healthy[d.ID] = d.Healthy
	}
	lists, sizes := share.Attributes(offers, func(id string) bool { return healthy[id] && !taken[id] })
	out := map[string]*structs.Attribute{}
	for name, list := range lists {
		out[name] = structs.NewStringAttribute(list)
	}
	for name, size := range sizes {
		out[name] = structs.NewIntAttribute(int64(size), "")
	}
	return out
}
