package aliquot

import "aliquot.example/internal/gpu"

// NVIDIA's container runtime reads visibleDevices. The docker driver uses that runtime if the
// variable is in a task's DeviceEnv. With visibleNone, the runtime adds no GPU even if it is the
// engine's default.
const (
	visibleDevices = "NVIDIA_VISIBLE_DEVICES"
	visibleNone    = "void"
	// swarmResource is the toolkit's example of a variable that takes precedence over
	// visibleDevices if the operator has enabled it (config.toml, swarm-resource).
	swarmResource = "DOCKER_RESOURCE_GPU"
)

// With the toolkit's option accept-nvidia-visible-devices-as-volume-mounts, mounts of /dev/null in the
// directory of requests request GPUs.
var nvidiaReach = ungranted{
	vendor:   gpu.NVIDIA,
	env:      map[string]string{visibleDevices: visibleNone, swarmResource: visibleNone},
	runtimes: []string{"nvidia*"},
	nodes:    []string{"/dev/nvidia*", "/dev/dri"},
	majors:   []string{"nvidia*", "drm"},
	requests: []string{"/var/run/nvidia-container-devices", "/run/nvidia-container-devices"},
}
