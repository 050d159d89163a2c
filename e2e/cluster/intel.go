package cluster

import (
	"context"

	"aliquot.example/e2e/rack"
)

// IntelPlugin is the device plugin of Intel's GPUs; it is there when the host has some.
const IntelPlugin = "aliquot-device-intel"

// Intel says which Intel GPUs the host pretends to have, beside the others.
type Intel struct {
	GPUs []rack.IntelGPU
	// Device holds further settings, in HCL, of the device plugin.
	Device string
}

// buildIntel writes the Intel rack into the root that the others use too.
func (c *Cluster) buildIntel(context.Context) (err error) {
	if c.options.Intel == nil {
		return nil
	}
	c.Intel, err = rack.NewIntel(c.path("root"), c.options.Intel.GPUs...)
	return err
}
