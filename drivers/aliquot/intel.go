package aliquot

import (
	"context"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/intel"
)

var intel = vendor{
	of:         gpu.Intel,
	present:    func(h host) bool { return kernel.Present(h.root()) },
	attributes: noAttributes,
	attach: func(s settings, g gpu.Grant, _ TaskConfig, _ []string) (attachment, error) {
		paths, err := kernel.Nodes(s.host.root(), g)
		if err != nil {
			return attachment{}, err
		}
		nodes, err := s.host.nodes(paths)
		if err != nil {
			return attachment{}, err
		}
		a := attachment{how: AttachNodes, nodes: nodes, groups: s.host.gids(nodes, "video", "render")}
		// Intel's user-mode driver finds GPUs through these links, which grant no access.
		if s.host.exists(kernel.Links) {
			a.addMount(&drivers.MountConfig{HostPath: s.host.path(kernel.Links), TaskPath: kernel.Links,
				Readonly: true})
		}
		return a, nil
	},
	holders: func(_ context.Context, at look, g gpu.Grant) ([]int, error) {
		paths, err := kernel.Nodes(at.set.host.root(), g)
		if err != nil {
			return nil, err
		}
		return openers(machine.Running, at.container, paths), nil
	},
	holds:  func(gpu.Grant) string { return "has opened the render node of" },
	unseen: nothingUnseen,
	server: nothing, faulted: noFaults, limits: noneHeld, limit: noLimit,
}
