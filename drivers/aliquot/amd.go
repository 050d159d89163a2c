package aliquot

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/amd"
)

var amd = vendor{
	of:      gpu.AMD,
	present: func(h host) bool { return h.exists(kernel.KFD) },
	attributes: func(s settings, _ []string) map[string]string {
		if len(dmemRegions(s.host.root(), "drm/")) == 0 {
			return nil
		}
		return map[string]string{"memory_limits": dmem}
	},
	attach: func(s settings, g gpu.Grant, _ TaskConfig, _ []string) (attachment, error) {
		nodes, err := s.host.amdNodes(g)
		if err != nil {
			return attachment{}, err
		}
		return attachment{how: AttachNodes, nodes: nodes, groups: s.host.gids(nodes, "video", "render")}, nil
	},
	// KFD lists every process that has opened it.
	holders: func(_ context.Context, at look, _ gpu.Grant) ([]int, error) {
		return at.set.host.root().Numbered(kernel.Processes), nil
	},
	holds:  func(gpu.Grant) string { return "has opened the compute driver (KFD) with" },
	unseen: nothingUnseen,
	server: nothing, faulted: noFaults,
	limits: func(s settings, g gpu.Grant) bool { return len(amdRegions(s, g)) > 0 },
	limit: func(_ context.Context, s settings, g gpu.Grant, group string) (string, error) {
		regions := amdRegions(s, g)
		for _, region := range regions {
			if err := limitDmem(s.host.root(), group, region, g.Memory.Bytes()); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("the kernel: at most %s of %s (cgroup controller dmem)", g.Memory,
			strings.Join(regions, " ")), nil
	},
}

// amdRegions returns the kernel's names of the memory that a grant shares with others. There are none
// if the grant is not shared or the kernel has no limits.
func amdRegions(s settings, g gpu.Grant) []string {
	if g.Sharing != gpu.SharingCUMask || len(g.PCI) != 1 {
		return nil
	}
	return dmemRegions(s.host.root(), "drm/"+strings.ToLower(g.PCI[0])+"/vram")
}

// amdNodes returns /dev/kfd and the render node of each granted GPU or
// partition, and of no other.
func (h host) amdNodes(g gpu.Grant) ([]*drivers.DeviceConfig, error) {
	paths := []string{kernel.KFD}
	// The device plugin does not offer GPUs whose nodes cannot be read.
	topology, _ := kernel.Nodes(h.root())
	for i, id := range g.GPUs {
		if i >= len(g.PCI) || g.PCI[i] == "" {
			return nil, fmt.Errorf(
				"the grant names no PCI address for GPU %s: "+
					"is the device plugin of the same release as the driver?", id)
		}
		minor, err := kernel.RenderMinor(h.root(), topology, id, g.PCI[i])
		if err != nil {
			return nil, err
		}
		paths = append(paths, machine.RenderNode(minor))
	}
	nodes, err := h.nodes(paths)
	if err != nil {
		return nil, fmt.Errorf("%w: is the amdgpu driver loaded?", err)
	}
	return nodes, nil
}
