package doctor

import (
	"fmt"
	"strings"
)

// reload looks for the trap of systemd: with systemd's control groups an engine names a
// container's device nodes by /dev/char/<major>:<minor>, where NVIDIA's have no links,
// and at the next daemon-reload the container loses nodes that systemd cannot name
// (NVIDIA/nvidia-container-toolkit#48, opencontainers/runc#3708).
func reload(f Facts) []Finding {
	if len(f.Unnamed) == 0 {
		return nil
	}
	return []Finding{{Warning,
		"systemd",
		fmt.Sprintf("systemd cannot name %s: /dev/char has no links to them, "+
			"and a  systemctl daemon-reload  may take the GPUs from running containers (\"Failed to initialize "+
			"NVML: Unknown Error\")", strings.Join(f.Unnamed, ", ")),
		"run  nvidia-ctk system create-dev-char-symlinks --create-all  at every boot, " +
			"by a udev rule for DEVPATH==\"/bus/pci/drivers/nvidia\", or give docker  \"exec-opts\": " +
			"[\"native.cgroupdriver=cgroupfs\"]"}}
}
