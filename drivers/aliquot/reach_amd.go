package aliquot

import "aliquot.example/internal/gpu"

// AMD's runtime reads one variable; ROCm opens /dev/kfd and a render node.
var amdReach = ungranted{
	vendor:   gpu.AMD,
	env:      map[string]string{"AMD_VISIBLE_DEVICES": "none"},
	runtimes: []string{"amd", "amd-container-runtime"},
	nodes:    []string{"/dev/kfd", "/dev/dri"},
	majors:   []string{"kfd", "drm"},
}
