package doctor

import (
	"fmt"
	"strings"
)

// reload finds device nodes that containers can lose. With systemd's control groups, an engine refers
// to a container's device nodes as /dev/char/<major>:<minor>. NVIDIA's have no links there, so
// containers lose them at the next daemon-reload (NVIDIA/nvidia-container-toolkit#48,
// opencontainers/runc#3708).
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
			"from a udev rule for DEVPATH==\"/bus/pci/drivers/nvidia\", or configure docker with  \"exec-opts\": " +
			"[\"native.cgroupdriver=cgroupfs\"]"}}
}
