package aliquot

import "aliquot/internal/gpu"

// Intel has no container runtime; its compute driver opens render nodes.
var intelReach = reach{
	vendor: gpu.Intel,
	nodes:  []string{"/dev/dri", "/dev/accel"},
	majors: []string{"drm", "accel"},
}
