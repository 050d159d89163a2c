package aliquot

// Intel has no container runtime; its compute driver opens render nodes.
var intelReach = reach{
	vendor: "intel",
	nodes:  []string{"/dev/dri", "/dev/accel"},
	majors: []string{"drm", "accel"},
}
