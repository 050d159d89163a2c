package cluster

import (
	"context"
	"path/filepath"

	"aliquot/e2e/rack"
)

// AMDPlugin is the device plugin of AMD's GPUs; it is there when the host has some.
const AMDPlugin = "aliquot-device-amd"

// AMD says which AMD GPUs the host pretends to have, beside those of Options.Rack.
type AMD struct {
	GPUs []rack.AMDGPU
	// Release of AMD's management library; "" for a host without it.
	Release string
	// Device holds further settings, in HCL, of the device plugin.
	Device string
}

// devicePlugins lists the plugins of the GPUs that the host has.
func (c *Cluster) devicePlugins() []string {
	switch {
	case c.options.AMD == nil:
		return []string{DevicePlugin}
	case c.options.Rack == "":
		return []string{AMDPlugin}
	default:
		return []string{DevicePlugin, AMDPlugin}
	}
}

// buildAMD writes the AMD rack into the root that the NVIDIA rack uses too, and
// plays its kernel driver until Stop.
func (c *Cluster) buildAMD(ctx context.Context) (err error) {
	if c.options.AMD == nil {
		return nil
	}
	if release := c.options.AMD.Release; release != "" {
		if c.amdLib, err = rack.BuildAMD(ctx, filepath.Join(c.bin, "e2e", "rack"), release); err != nil {
			return err
		}
	}
	if c.AMD, err = rack.NewAMD(c.path("root"), c.options.AMD.GPUs...); err != nil {
		return err
	}
	follow, cancel := context.WithCancel(context.Background())
	c.unfollow = cancel
	go c.AMD.Follow(follow)
	return nil
}
