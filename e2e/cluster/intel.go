package cluster

import (
	"context"

	"aliquot.example/e2e/rack"
)

// IntelPlugin is the device plugin for Intel GPUs. It is configured only when the host has some.
const IntelPlugin = "aliquot-device-intel"

// Intel describes the Intel GPUs that the host pretends to have, in addition to others.
type Intel struct {
	GPUs []rack.IntelGPU
	// Device holds additional settings, in HCL, of the device plugin.
	Device string
}

// buildIntel writes the Intel rack into the root that the other racks also use.
func (c *Cluster) buildIntel(context.Context) (err error) {
	if c.options.Intel == nil {
		return nil
	}
	c.Intel, err = rack.NewIntel(c.path("root"), c.options.Intel.GPUs...)
	return err
}
