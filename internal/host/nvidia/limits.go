package nvidia

import (
	"strconv"
	"strings"

	"aliquot.example/internal/host"
)

// HoldMemory is the first argument with which the device plugin's program limits the
// memory of a control group, for the task driver.
const HoldMemory = "hold-memory"

// NoLimits is its exit status where the driver has no such limits.
const NoLimits = 3

// firstWithLimits is the first release of the driver that has memory limits by control
// group.
const firstWithLimits = 615

// HasLimits reports whether the loaded driver is of a release that has memory limits by
// control group.
func HasLimits(root host.Root) bool {
	major, _, _ := strings.Cut(root.TextOr("", "/sys/module/nvidia/version"), ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= firstWithLimits
}
