package aliquot

import "aliquot.example/internal/gpu"

// Intel has no container runtime; its compute driver opens render nodes.
var intelReach = ungranted{
	vendor: gpu.Intel,
	nodes:  []string{"/dev/dri", "/dev/accel"},
	majors: []string{"drm", "accel"},
}
