package aliquot

import (
	"context"

	"aliquot/internal/gpu"
)

var amd = vendor{
	of:         gpu.AMD,
	present:    func(h host) bool { return h.exists("/dev/kfd") },
	attributes: noAttributes,
	attach: func(s settings, g gpu.Grant, _ TaskConfig, _ []string) (attachment, error) {
		nodes, err := s.host.amdNodes(g)
		if err != nil {
			return attachment{}, err
		}
		return attachment{how: AttachNodes, nodes: nodes, groups: s.host.gids(nodes, "video", "render")}, nil
	},
	// KFD lists every process that has opened it.
	holders: func(_ context.Context, at look, _ gpu.Grant) ([]int, error) {
		return numbered(at.set.host.path("/sys/class/kfd/kfd/proc")), nil
	},
	holds:  func(gpu.Grant) string { return "has opened the compute driver (KFD) with" },
	unseen: nothing,
}
