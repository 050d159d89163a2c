package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Limit returns the cgroup of a process that a GPU's driver limits, and its limit in MiB. ok is
// false if there is no limit.
func Limit(rack, uuid string, pid int) (group string, mib int, ok bool) {
	limits, err := os.ReadFile(filepath.Join(rack+".d", uuid+".limits"))
	if rack == "" || err != nil {
		return "", 0, false
	}
	for line := range strings.Lines(string(limits)) {
		var soft, hard uint64
		var dir string
		if n, _ := fmt.Sscan(line, &soft, &hard, &dir); n == 3 && InGroup(dir, pid) {
			group, mib, ok = dir, int(hard>>20), true
		}
	}
	return group, mib, ok
}

// InGroup reports whether a process is in the cgroup dir, or in one below it. dir is the cgroup's
// folder below /sys/fs/cgroup.
func InGroup(dir string, pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if own, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				if strings.HasPrefix(filepath.Join(mount, own)+"/", strings.TrimSuffix(dir, "/")+"/") {
					return true
				}
			}
		}
	}
	return false
}
