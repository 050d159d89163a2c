package nvidia

import (
	"strconv"
	"strings"

	"aliquot.example/internal/host"
)

// HoldMemory is the first argument that makes the device plugin's program limit the GPU memory of a
// cgroup. The task driver uses it.
const HoldMemory = "hold-memory"

// NoLimits is the program's exit status if the driver does not support such limits.
const NoLimits = 3

// firstWithLimits is the first major release of the driver that supports memory limits by cgroup.
const firstWithLimits = 615

// HasLimits reports whether the loaded driver supports memory limits by cgroup.
func HasLimits(root host.Root) bool {
	major, _, _ := strings.Cut(root.TextOr("", "/sys/module/nvidia/version"), ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= firstWithLimits
}
