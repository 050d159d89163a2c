package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// AMDPlugin is the device plugin for AMD GPUs. It is configured only when the host has some.
const AMDPlugin = "aliquot-device-amd"

// AMD describes the AMD GPUs that the host pretends to have, in addition to those of Options.Rack.
type AMD struct {
	GPUs []rack.AMDGPU
	// Release is the release of AMD's management library; "" for a host without it.
	Release string
	// Device holds further settings, in HCL, of the device plugin.
	Device string
}

// devicePlugins lists the plugins for the GPUs of the host. Without GPUs it lists NVIDIA's.
func (c *Cluster) devicePlugins() []string {
	var out []string
	if c.options.Rack != "" || c.options.AMD == nil && c.options.Intel == nil {
		out = append(out, DevicePlugin)
	}
	if c.options.AMD != nil {
		out = append(out, AMDPlugin)
	}
	if c.options.Intel != nil {
		out = append(out, IntelPlugin)
	}
	return out
}

// buildAMD writes the AMD rack into the root that the NVIDIA rack also uses, and plays its kernel
// driver until Stop.
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

// OpenGPU makes the first process of an allocation's container appear as a user of the AMD GPUs or
// partitions that the allocation was granted, as the kernel does when a process opens them. The
// process uses that much memory on each GPU, and has waves on that many compute units. closeGPU
// ends this.
func (c *Cluster) OpenGPU(ctx context.Context, alloc *nomad.Allocation, bytes uint64, units int) (closeGPU func() error,
	err error) {
	task, granted, err := grantedTo(alloc)
	if err != nil {
		return nil, err
	}
	out, err := docker(ctx, nil, "inspect", "--format", "{{.State.Pid}}", task+"-"+alloc.ID)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || pid <= 0 {
		return nil, fmt.Errorf("the container of %s has PID %q", alloc.Name, out)
	}
	err = c.AMD.Edit(func(gpus []rack.AMDGPU) {
		for i := range gpus {
			for _, id := range granted {
				card, part, _ := strings.Cut(string(id), "-p")
				partition, _ := strconv.Atoi(part)
				if card == gpus[i].PCI {
					gpus[i].Processes = append(slices.Clone(gpus[i].Processes),
						rack.AMDProcess{PID: pid, Partition: partition, Bytes: bytes, Units: units})
				}
			}
		}
	})
	return func() error {
		return c.AMD.Edit(func(gpus []rack.AMDGPU) {
			for i := range gpus {
				gpus[i].Processes = slices.DeleteFunc(slices.Clone(gpus[i].Processes), func(p rack.AMDProcess) bool {
					return p.PID == pid
				})
			}
		})
	}, err
}

// grantedTo returns the task of an allocation that holds devices, and their GPUs.
func grantedTo(alloc *nomad.Allocation) (task string, granted []gpu.ID, err error) {
	for name, resources := range alloc.AllocatedResources.Tasks {
		for _, device := range resources.Devices {
			for _, id := range device.DeviceIDs {
				slice, err := gpu.ParseSlice(id)
				if err != nil {
					return "", nil, err
				}
				if task = name; !slices.Contains(granted, slice.GPU) {
					granted = append(granted, slice.GPU)
				}
			}
		}
	}
	if granted == nil {
		return "", nil, fmt.Errorf("allocation %s has no GPU", alloc.Name)
	}
	return task, granted, nil
}
