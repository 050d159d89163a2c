package aliquot

import "aliquot.example/internal/gpu"

// visibleDevices is read by NVIDIA's container runtime. The docker driver asks
// for that runtime when it is in a task's DeviceEnv; "void" makes the runtime
// do nothing where it is the engine's default.
const (
	visibleDevices = "NVIDIA_VISIBLE_DEVICES"
	visibleNone    = "void"
	// swarmResource is the toolkit's example of a variable that goes before the first
	// where an operator has switched it on (config.toml, swarm-resource).
	swarmResource = "DOCKER_RESOURCE_GPU"
)

// Mounts of /dev/null in the folder of requests count where the toolkit's
// accept-nvidia-visible-devices-as-volume-mounts is on.
var nvidiaReach = reach{
	vendor:   gpu.NVIDIA,
	env:      map[string]string{visibleDevices: visibleNone, swarmResource: visibleNone},
	runtimes: []string{"nvidia*"},
	nodes:    []string{"/dev/nvidia*", "/dev/dri"},
	majors:   []string{"nvidia*", "drm"},
	requests: []string{"/var/run/nvidia-container-devices", "/run/nvidia-container-devices"},
}
